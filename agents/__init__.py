"""Agents. Any file with a `get_config()` and a subclass of `Agent` is one.

Agents in this folder have names, such as 'dfp'; others go by the path of their file. `base.py` has
what all agents share, `top_k.py` what DFP and MVP share.
"""

import difflib
import functools
import hashlib
import importlib
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

from agents.base import Agent
from utils.errors import UserError
from utils.spec import Spec

FOLDER = pathlib.Path(__file__).resolve().parent


def names() -> list[str]:
    """Returns the names of the agents in this folder: its files with a `get_config()`."""
    return sorted(
        path.stem for path in FOLDER.glob('*.py') if '\ndef get_config()' in path.read_text('utf-8')
    )


def find_file(agent: str) -> pathlib.Path:
    """Returns the file of an agent.

    Args:
        agent: a name such as 'dfp', or a path, relative to the working directory or the project.

    Raises:
        UserError: there is no such file.
    """
    path = pathlib.Path(agent).expanduser()
    for place in (path, FOLDER.parent / path) if path.suffix else (FOLDER / f'{agent}.py',):
        if place.is_file():
            return place.resolve()
    known = ', '.join(f'agents/{name}.py' for name in names())
    raise UserError(f'--agent={agent}: no such file; put it back, or use {known}')


def short_name(agent: str) -> str:
    """Returns the name of an agent in this folder, or the absolute path of another one's file."""
    path = find_file(agent)
    return path.stem if path.parent == FOLDER else str(path)


def find_class(agent: str) -> type[Agent]:
    """Returns the class of an agent: its file's `agent_class`, or the only `Agent` defined there.

    Args:
        agent: see `find_file`.

    Raises:
        UserError: the file is missing, or defines no such class, or several.
    """
    module = _load(agent)
    if hasattr(module, 'agent_class'):
        return module.agent_class
    found = {
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Agent)
        and value.__module__ == module.__name__
    }
    if len(found) != 1:
        problem = f'defines {", ".join(sorted(x.__name__ for x in found)) or "no subclass"}'
        raise UserError(
            f'--agent={agent}: {problem} of agents.base.Agent; name the one to use in that file: '
            'agent_class = …'
        )
    return found.pop()


def get_config(agent: str, changes: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """Returns the settings of an agent.

    Args:
        agent: see `find_file`.
        changes: settings that override those of its file's `get_config()`.

    Raises:
        UserError: the agent or a setting is unknown, or a value has the wrong type.
    """
    config = _load(agent).get_config()
    for name, value in (changes or {}).items():
        if name not in config:
            raise UserError(unknown_setting(agent, name))
        try:
            config[name] = value
        except TypeError as error:
            kind = type(config[name]).__name__
            raise UserError(f'--agent.{name}={value}: must be of type {kind}') from error
    return config


def unknown_setting(agent: str, setting: str) -> str:
    """Returns the error for an unknown setting of an agent, with the nearest known one."""
    problem, config = f'--agent.{setting}: not a setting of {agent}', get_config(agent)
    if owners := [name for name in names() if setting in get_config(name)]:
        return f'{problem}, but of {", ".join(owners)}'
    if near := difflib.get_close_matches(setting, config, 1):
        return f'{problem}; did you mean --agent.{near[0]}?'
    return f'{problem}; it has {", ".join(config)}'


def make_agent(description: Mapping[str, Any], seed: int) -> Agent:
    """Makes the agent that a run or a checkpoint describes.

    Args:
        description: `agent` (settings that differ from the defaults), `agent_file` (see
            `find_file`; by default the settings' `agent_name`), `transition` (`Spec.to_json` of the
            data), and `horizon_length`, `discount`, `frame_stack` and `p_aug` for `Agent.create`.
        seed: of the run.

    Raises:
        UserError: the agent is unknown, or a setting is invalid.
    """
    agent = description.get('agent_file') or description['agent']['agent_name']
    return find_class(agent).create(
        seed,
        Spec.from_json(description['transition']),
        get_config(agent, description['agent']),
        description['horizon_length'],
        description['discount'],
        description['frame_stack'],
        description['p_aug'],
    )


def _load(agent: str) -> types.ModuleType:
    """Returns the module of an agent's file."""
    path = find_file(agent)
    if path.parent == FOLDER:
        module = importlib.import_module(f'agents.{path.stem}')
    else:
        try:
            module = _execute(path, path.read_text('utf-8'))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise UserError(f'--agent={agent}: not a Python program ({error})') from error
    if not hasattr(module, 'get_config'):
        raise UserError(f'--agent={agent}: has no get_config(); see agents/dfp.py')
    return module


@functools.cache
def _execute(path: pathlib.Path, source: str) -> types.ModuleType:
    """Returns a file's module, always the same one until the file changes."""
    digest = hashlib.sha256(f'{path}\n{source}'.encode()).hexdigest()[:8]
    module = types.ModuleType(f'agent_{path.stem}_{digest}')
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look up their annotations
    exec(compile(source, path, 'exec'), vars(module))
    return module
