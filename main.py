"""Offline-to-online reinforcement learning: one run, from data to learning curve.

python main.py --agent=agents/dfp.py --env_name=cube-double-play-singletask-task2-v0
python main.py --method=QC-FQL --env_name=cube-double-play-singletask-task2-v0

The same command again continues a run that was stopped, from where it was.
"""

import dataclasses
import os
import shlex
import signal
import sys
import typing

from absl import app, flags, logging
from ml_collections import config_flags

import envs
from experiments.methods import expand_method, peek
from training import Interrupted, RunConfig, train
from training.interruption import SIGNALS
from utils.errors import UserError

FLAGS = flags.FLAGS
INTERRUPTED = 75  # exit status: start the same command again (EX_TEMPFAIL)


def define_flags(argv: list[str]) -> None:
    """Defines a flag for each setting of a run, and for the options of the suites.

    Args:
        argv: program and flags, flag files and methods already expanded.
    """
    config_flags.DEFINE_config_file(
        'agent', 'agents/dfp.py', 'The method: a file with get_config().', sys_argv=argv
    )
    for field in dataclasses.fields(RunConfig):
        if field.metadata:
            define_flag(field.name, field.type, field.default, **field.metadata)
    for option in OPTIONS:
        define_flag(option.name, option.type, None, option.help, option.choices)
    flags.DEFINE_bool('fresh', False, 'Start anew beside a run of the same settings.')


def define_flag(name, kind, default, help, choices=None, **_) -> None:
    """Defines one flag; `kind` is its type, such as `int` or `str | None`."""
    kind = next(iter(typing.get_args(kind)), kind)
    if choices:
        flags.DEFINE_enum(name, default, choices, help)
    else:
        define = {int: 'integer', str: 'string', float: 'float', bool: 'bool'}[kind]
        getattr(flags, f'DEFINE_{define}')(name, default, help)


def config_from_flags() -> RunConfig:
    """Returns the run that the command line describes."""
    names = [field.name for field in dataclasses.fields(RunConfig) if field.metadata]
    options = [option.name for option in OPTIONS if FLAGS[option.name].present]
    return RunConfig(
        agent=FLAGS.agent,
        env_options={name: FLAGS[name].value for name in options},
        **{name: FLAGS[name].value for name in names},
    )


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r}: not a flag; flags start with --')
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)  # orbax has much to say
    config = config_from_flags()
    try:
        result = train(config, fresh=FLAGS.fresh)
    except Interrupted as error:
        for number in SIGNALS:  # all is saved; another one must not disturb the end
            signal.signal(number, signal.SIG_IGN)
        again = [arg for arg in sys.argv if arg not in ('--fresh', '--fresh=True')]
        command = shlex.join([os.path.relpath(sys.executable), *again])
        print(f'{error}. Continue with: {command}', file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (UserError, OSError) as error:
        sys.exit(f'{error}')
    if result.was_complete:
        print(f'Complete already: {result.directory} (--fresh starts it anew beside it)')
    for seed, score in zip(config.seeds, result.scores, strict=True):
        print(f'Final success of seed {seed}: {100 * score["success"]:.0f}% ({result.directory})')


if __name__ == '__main__':
    try:
        ARGV = FLAGS.read_flags_from_files(sys.argv)
        NAME = peek(ARGV, 'suite')['suite']
        SUITES = [envs.load_suite(NAME)] if NAME else envs.suites()
        OPTIONS = [option for suite in SUITES for option in suite.options]
        ARGV = expand_method(ARGV, RunConfig.env_name)
        define_flags(ARGV)
    except UserError as problem:
        sys.exit(f'{problem}')
    app.run(main, argv=ARGV)
