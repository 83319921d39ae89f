"""Reads methods.toml: the flags that a method of the paper's table stands for on a task."""

import argparse
import fnmatch
import pathlib
import tomllib
from collections.abc import Mapping

from absl import flags
from ml_collections import config_flags

from training import RunConfig
from utils.errors import UserError

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


def peek(argv: list[str], *names: str) -> dict[str, str | None]:
    """Returns the values of some flags before all flags are defined; the last one given counts.

    Args:
        argv: program and flags, flag files already read.
        names: of the flags.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f'--{name}')
    return vars(parser.parse_known_args(argv[1:])[0])


def expand_method(argv: list[str], default_env_name: str) -> list[str]:
    """Returns the command line with the flags of its last `--method` put first.

    Because they come first, explicit flags override them.

    Args:
        argv: program and flags, flag files already read.
        default_env_name: the task if none is named.

    Raises:
        UserError: the method is unknown, or an agent is named besides.
    """
    given = peek(argv, 'method', 'agent', 'env_name')
    method, agent = given['method'], given['agent']
    if method is None:
        return argv
    if agent is not None:
        raise UserError(f'--method={method} --agent={agent}: a method names its agent; give one')
    return [argv[0], *method_flags(method, given['env_name'] or default_env_name), *argv[1:]]


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
    flags.DEFINE_integer('horizon_length', 5, 'Actions in a chunk (h).', flag_values=values)
    values(argv)
    config = values.agent
    config.update(agent or {})
    settings = {'horizon_length': values.horizon_length} | settings
    return RunConfig(agent=config, env_name=env_name, method=method, **settings)
