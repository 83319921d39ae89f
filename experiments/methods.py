"""Reads methods.toml: which flags a method of the paper's table stands for on a task."""

import argparse
import fnmatch
import pathlib
import tomllib

import ml_collections
from absl import flags
from ml_collections import config_flags

METHODS = tomllib.loads((pathlib.Path(__file__).parent / 'methods.toml').read_text())


def method_flags(method: str, env_name: str) -> list[str]:
    """Returns the flags of a method on a task.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f'--method={method}: unknown; there are {", ".join(METHODS)}')
    settings = METHODS[method]
    for pattern, more in settings.get('tasks', {}).items():
        if fnmatch.fnmatchcase(env_name, pattern):
            return settings['flags'] + more
    return settings['flags']


def expand_method(argv: list[str], default_env_name: str) -> list[str]:
    """Returns the command line with the flags that its last `--method` stands for put first.

    Being first, they lose to whatever the command line says itself.

    Args:
        argv: program and flags, flag files already read.
        default_env_name: the task if none is named.

    Raises:
        ValueError: the method is unknown, or an agent is named besides.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ('--method', '--agent', '--env_name'):
        parser.add_argument(name)
    given, _ = parser.parse_known_args(argv[1:])
    if given.method is None:
        return argv
    if given.agent is not None:
        raise ValueError(
            f'--method={given.method} --agent={given.agent}: a method names its agent; give one'
        )
    return [argv[0], *method_flags(given.method, given.env_name or default_env_name), *argv[1:]]


def method_settings(method: str, env_name: str) -> tuple[ml_collections.ConfigDict, int]:
    """Returns the agent's settings and the chunk length of a method on a task."""
    argv = [method, *method_flags(method, env_name)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('agent', flag_values=values, sys_argv=argv)
    flags.DEFINE_integer('horizon_length', 5, 'Actions in a chunk (h).', flag_values=values)
    values(argv)
    return values.agent, values.horizon_length
