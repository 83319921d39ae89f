"""Reads methods.toml: the flags that a method, such as a row of the paper, stands for."""

import fnmatch
import pathlib
import tomllib
from collections.abc import Mapping

from absl import flags
from ml_collections import config_flags

from experiments.command_line import peek, take
from training import RunConfig
from utils.errors import UserError

RUN_FLAGS = ('horizon_length', 'online_steps')  # besides the agent's, those that methods set
METHODS = tomllib.loads((pathlib.Path(__file__).parent / 'methods.toml').read_text())


def method_flags(method: str, env_name: str) -> list[str]:
    """Returns the flags of a method on a task.

    Raises:
        UserError: there is no such method.
    """
    if method not in METHODS:
        raise UserError(f'--method={method}: unknown; there are {", ".join(METHODS)}')
    settings = METHODS[method]
    for pattern, more in settings.get('tasks', {}).items():
        if fnmatch.fnmatchcase(env_name, pattern):
            return settings['flags'] + more
    return settings['flags']


def expand_method(argv: list[str], default_env_name: str) -> list[str]:
    """Returns the command line with the chosen agent and its method's flags put first.

    `--method` and `--agent` both choose the agent. The last of all of them counts, and the others
    are dropped. Because a method's flags come first, explicit flags override them.

    Args:
        argv: program and flags, flag files already read.
        default_env_name: the task if none is named.

    Raises:
        UserError: the method is unknown.
    """
    choices, rest = take(argv, 'method', 'agent')
    if not choices:
        return argv
    kind, value = choices[-1]
    chosen = [f'--{kind}={value}']
    if kind == 'method':
        chosen += method_flags(value, peek(argv, 'env_name', default_env_name))
    return [argv[0], *chosen, *rest[1:]]


def run_config(method: str, env_name: str, agent: Mapping | None = None, **settings) -> RunConfig:
    """Returns the run of a method on a task.

    Args:
        method: of methods.toml.
        env_name: the task.
        agent: settings of the agent that differ from the method's.
        **settings: fields of `RunConfig` that differ from the defaults and the method's.

    Raises:
        UserError: there is no such method.
        KeyError: the agent has no such setting.
    """
    argv = [method, *method_flags(method, env_name)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('agent', flag_values=values, sys_argv=argv)
    for name in RUN_FLAGS:
        flags.DEFINE_integer(name, getattr(RunConfig, name), 'Of RunConfig.', flag_values=values)
    values(argv)
    config = values.agent
    config.update(agent or {})
    settings = {name: values[name].value for name in RUN_FLAGS} | settings
    return RunConfig(agent=config, env_name=env_name, method=method, **settings)
