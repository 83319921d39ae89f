"""Methods by name (methods.toml); turns settings into the config of a run."""

import dataclasses
import fnmatch
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from training import RunConfig
from utils.errors import UserError

METHODS = tomllib.loads((pathlib.Path(__file__).parent / 'methods.toml').read_text('utf-8'))


def method_settings(method: str, env_name: str) -> dict[str, Any]:
    """Returns the settings of a method on a task, by flag name.

    Raises:
        UserError: the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f'--method={method}: unknown; there are {", ".join(METHODS)}')
    settings = dict(METHODS[method])
    for pattern, more in settings.pop('tasks', {}).items():
        if fnmatch.fnmatchcase(env_name, pattern):
            return settings | more
    return settings


def make_config(settings: Mapping[str, Any]) -> RunConfig:
    """Returns the config of a run from settings by flag name.

    'method' provides defaults. 'agent' is the agent's name or file, 'agent.<name>' one of its
    settings. Names that are not fields of `RunConfig` are options of the suite.

    Raises:
        UserError: the method, agent, or setting of the agent is unknown.
    """
    if method := settings.get('method'):
        env_name = settings.get('env_name', RunConfig.env_name)
        settings = method_settings(method, env_name) | dict(settings)
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    run, agent, options = {}, {}, {}
    for name, value in settings.items():
        group = agent if name.startswith('agent.') else run if name in fields else options
        group[name.removeprefix('agent.')] = value
    file = run.pop('agent', RunConfig.agent)
    options |= run.pop('env_options', {})
    return RunConfig(agent, agent_file=file, env_options=options, **run)


def run_config(method: str, env_name: str, agent: Mapping | None = None, **settings) -> RunConfig:
    """Returns the config of a method on a task.

    Args:
        method: of methods.toml.
        env_name: the task.
        agent: settings of the agent that override the method's.
        **settings: of the run or its suite, by flag name, that override the method's.

    Raises:
        UserError: the method or the agent's setting is unknown.
    """
    changes = {f'agent.{name}': value for name, value in (agent or {}).items()}
    return make_config({'method': method, 'env_name': env_name} | settings | changes)
