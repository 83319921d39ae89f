"""Offline-to-online reinforcement learning: one run, from data to learning curve.

python main.py --agent=agents/dfp.py --env_name=cube-double-play-singletask-task2-v0
python main.py --method=QC-FQL --env_name=cube-double-play-singletask-task2-v0

The same command continues a run that was stopped.
"""

import experiments.interruptible  # noqa: F401

# isort: split
import os
import shlex
import signal
import sys
from functools import partial

from absl import app, flags, logging

from envs.processes import SIGNALS
from experiments import command_line
from experiments.run_flags import RunFlags
from training import Interrupted, train
from training.evaluation import headline

FLAGS = flags.FLAGS
INTERRUPTED = 75  # exit status: start the same command again (EX_TEMPFAIL)


def main(_, run_flags: RunFlags) -> None:
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)
    config = run_flags.config()
    try:
        result = train(config, fresh=FLAGS.fresh)
    except Interrupted as error:
        for number in SIGNALS:  # everything is saved; ignore further signals
            signal.signal(number, signal.SIG_IGN)
        again = ['--nofresh'] if FLAGS.fresh else []  # the last one wins
        command = shlex.join([os.path.relpath(sys.executable), *sys.argv, *again])
        print(f'{error}. Continue with: {command}', file=sys.stderr)
        sys.exit(INTERRUPTED)
    if result.was_complete:
        print(
            f'Complete already: {result.directory} is at {result.was_complete} '
            '(--fresh starts a second run)'
        )
    elif not result.scores:
        print(f'Done without evaluations: {result.directory}')
    for seed, score in zip(config.seeds, result.scores, strict=False):
        name, value = headline([score])
        print(f'Final {name} of seed {seed}: {value} ({result.directory})')


if __name__ == '__main__':
    with command_line.one_line_errors():
        run_flags = RunFlags(sys.argv)
        flags.DEFINE_bool('fresh', False, 'Start a second run of the same settings.')
        if command_line.HELP & set(sys.argv):
            print(run_flags.help_text(__doc__))
            sys.exit()
        app.run(partial(main, run_flags=run_flags), flags_parser=run_flags.parse)
