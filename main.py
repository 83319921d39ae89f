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
from experiments import command_line
from experiments.methods import expand_method
from training import Interrupted, RunConfig, train
from training.interruption import SIGNALS

FLAGS = flags.FLAGS
AGENT = 'agents/dfp.py'
OPTIONS: list[envs.Option] = []  # of the suites; `define_flags` finds them
INTERRUPTED = 75  # exit status: start the same command again (EX_TEMPFAIL)


def define_flags(argv: list[str]) -> list[str]:
    """Defines a flag for each setting of a run, and for the options of the suites.

    Args:
        argv: program and flags.

    Returns:
        The same with flag files read and the method's flags put in.
    """
    argv = FLAGS.read_flags_from_files(argv)
    name = command_line.peek(argv, 'suite')
    suites = [envs.load_suite(name)] if name else envs.suites()
    OPTIONS.extend(option for suite in suites for option in suite.options)
    command_line.refuse_other_names(argv, [option.name for option in OPTIONS])
    argv = expand_method(argv, RunConfig.env_name)
    path = command_line.peek(argv, 'agent', AGENT)
    settings = command_line.agent_settings(path)
    command_line.refuse_unknown_settings(argv, path, settings)
    config_flags.DEFINE_config_file(
        'agent', AGENT, 'The method: a file with get_config().', sys_argv=argv
    )
    for field in dataclasses.fields(RunConfig):
        if field.metadata:
            define_flag(field.name, field.type, field.default, **field.metadata)
    for option in OPTIONS:
        define_flag(option.name, option.type, None, option.help, option.choices)
    flags.DEFINE_bool('fresh', False, 'Start anew beside a run of the same settings.')
    if command_line.HELP & set(argv):
        print(command_line.help_text(__doc__, FLAGS.main_module_help(), path, settings))
        sys.exit()
    return argv


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
    command_line.refuse_arguments(argv)
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
    if result.was_complete:
        print(f'Complete already: {result.directory} (--fresh starts it anew beside it)')
    for seed, score in zip(config.seeds, result.scores, strict=True):
        print(f'Final success of seed {seed}: {100 * score["success"]:.0f}% ({result.directory})')


if __name__ == '__main__':
    with command_line.one_line_errors():
        app.run(main, argv=define_flags(sys.argv), flags_parser=FLAGS)
