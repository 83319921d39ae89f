"""The suites by name, and environments and data of any suite's tasks."""

import importlib
import json
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from absl import logging
from gymnasium.spaces import Box

from envs.datasets import DataRequest, Dataset
from envs.ogbench import suite as ogbench
from envs.robomimic import suite as robomimic
from envs.suite import Suite, Task, Value
from envs.values import PlainValues
from utils.errors import UserError

_suites: dict[str, Suite] = {suite.name: suite for suite in (ogbench, robomimic)}


def suites() -> tuple[Suite, ...]:
    """Returns the registered suites, whose tasks can be found by name."""
    return tuple(_suites.values())


def register(suite: Suite) -> None:
    """Registers a suite in this process, so that its tasks can be found by name.

    Raises:
        UserError: another suite has that name.
    """
    if _suites.setdefault(suite.name, suite) is not suite:
        raise UserError(f'suite {suite.name}: another suite has that name; rename it')


def load_suite(reference: str) -> Suite:
    """Imports a suite.

    Args:
        reference: 'my_module:suite', a module on Python's path and the suite in it; or the name of
            a registered suite.

    Raises:
        UserError: there is no such module or attribute, or it is not a `Suite`.
    """
    if reference in _suites:
        return _suites[reference]
    module_name, _, attribute = reference.partition(':')
    if not module_name or not attribute:
        known = ', '.join(_suites)
        raise UserError(f'--suite={reference}: must be {known} or, for example, my_module:suite')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        what = f'importing {module_name} failed ({error!r}); its folder must be in PYTHONPATH'
        raise UserError(f'--suite={reference}: {what}') from error
    suite = getattr(module, attribute, None)
    if not isinstance(suite, Suite):
        what = f'{module.__file__} has no {attribute} that is an object of a subclass of Suite'
        raise UserError(f'--suite={reference}: {what}')
    return suite


def find_task(env_name: str, suite: str | Suite | None = None) -> Task:
    """Finds the task that an environment's name describes.

    Args:
        env_name: such as 'cube-double-play-singletask-task2-v0'.
        suite: a suite, a registered one's name, 'my_module:suite', or None for all registered ones.

    Raises:
        UserError: no such environment or suite.
    """
    candidates = _candidates(suite)
    parsed = (candidate.parse(env_name) for candidate in candidates)
    if (task := next(filter(None, parsed), None)) is None:
        known = '; '.join(candidate.names for candidate in candidates)
        raise UserError(f'--env_name={env_name}: unknown; there are {known}')
    return task


def find_collection(dataset_name: str, suite: str | Suite | None = None) -> Suite:
    """Finds the suite that can collect a data set; arguments and errors as in `find_task`."""
    candidates = _candidates(suite)
    for candidate in candidates:
        if candidate.parse_dataset(dataset_name) is not None:
            return candidate
    known = '; '.join(candidate.dataset_names for candidate in candidates)
    what = 'not the name of data that can be collected'
    raise UserError(f'--env_name={dataset_name}: {what}; there are {known}')


def _candidates(suite: str | Suite | None) -> tuple[Suite, ...]:
    if suite is None:
        return suites()
    if isinstance(suite, Suite):
        return (suite,)
    return (load_suite(suite),)


def check_options(
    task_or_suite: Task | Suite, options: Mapping[str, Any] | None = None
) -> dict[str, Value]:
    """Returns all options of a suite: the given values, and defaults for the rest.

    Raises:
        UserError: the suite lacks an option, or a value has a wrong type or is not a choice.
    """
    suite = task_or_suite.suite if isinstance(task_or_suite, Task) else task_or_suite
    given = dict(options or {})
    known = {option.name: option for option in suite.options}
    for name, value in given.items():
        if name not in known:
            theirs = f'its options: {", ".join(known)}' if known else 'it has none'
            raise UserError(f'--{name}={value}: not an option of suite {suite.name}; {theirs}')
    return {name: option.check(given.get(name, option.default)) for name, option in known.items()}


def make_env(task: Task | str, *, render: bool = False, **options) -> gymnasium.Env:
    """Makes an environment.

    Observations are arrays of any shape, float32 or uint8, or dicts of them; actions are [d_a]
    float32 in [−1, 1] (mapped to the environment's own bounds), and the info of each step has
    'success' (bool, or None if the environment does not tell). All are plain values and copies
    (`PlainValues`). `reset(seed=s)` makes the episode reproducible, bit by bit, if the environment
    is deterministic.

    Args:
        task: from `find_task`, or the name of a registered suite's environment.
        render: whether `env.render()` returns images [H, W, 3] uint8. Without a display, MuJoCo
            needs MUJOCO_GL=egl or MUJOCO_GL=osmesa.
        options: of the task's suite (`task.suite.options`).

    Raises:
        UserError: the environment or an option is unknown, or agents do not support the
            environment's observations or actions.
    """
    task = find_task(task) if isinstance(task, str) else task
    env = task.suite.make_env(task, render=render, **check_options(task, options))
    env = PlainValues(env, task.env_name, task.suite.score)
    return _with_unit_actions(env, task.env_name)


def _with_unit_actions(env: gymnasium.Env, env_name: str) -> gymnasium.Env:
    space: Any = env.action_space
    is_vector = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.kind == 'f'
    if not is_vector or not space.is_bounded('both') or (space.low == space.high).any():
        needs = 'must be vectors of real numbers with finite bounds that differ'
        fix = 'give the environment a Box(low, high, (d_a,), np.float32)'
        raise UserError(f'{env_name}: actions are {space}, but {needs}; {fix}')
    unit = Box(-1, 1, space.shape, np.float32)
    if space == unit:
        return env
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def rescale(action: np.ndarray) -> np.ndarray:
        # Rounding may exceed the bounds slightly, which some environments reject.
        return np.clip(low + (high - low) * (action + 1) / 2, low, high).astype(space.dtype)

    return gymnasium.wrappers.TransformAction(env, rescale, unit)


def make_dataset(
    task: Task | str,
    *,
    source: str = 'auto',
    num_episodes: int | None = None,
    seed: int = 0,
    num_workers: int | None = None,
    **options,
) -> Dataset:
    """Finds, downloads or collects the offline data of an environment, and checks it.

    Args:
        task: from `find_task`, or the name of a registered suite's environment.
        source, num_episodes, seed, num_workers: see `DataRequest`.
        options: of the task's suite (`task.suite.options`).

    Raises:
        UserError: the environment, an option or the source is unknown.
        DatasetError: a file is damaged or does not match the request.
        UserError: the download or the collection failed.
    """
    task = find_task(task) if isinstance(task, str) else task
    request = DataRequest(source, num_episodes, seed, num_workers)
    options = check_options(task, options)
    dataset = task.suite.make_dataset(task, request=request, **options)
    logging.info('Offline data %s: %s', dataset.name, json.dumps(dataset.provenance))
    return dataset
