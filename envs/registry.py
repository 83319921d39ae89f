"""The suites by name, and environments and data of any suite's tasks."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from absl import logging
from gymnasium.spaces import Box

from envs.datasets import ON_BAD_SHARD, DataRequest, Dataset, DatasetError
from envs.ogbench import suite as ogbench
from envs.robomimic import suite as robomimic
from envs.suite import Suite, Task, Value
from envs.values import PlainValues
from utils.errors import UserError

SHARD_FIELDS = ('paths', 'num_rows', 'contents')  # of a `Dataset`, one entry per shard

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
        raise UserError(
            f'--suite={reference}: must be {", ".join(_suites)} or module:attribute, '
            'such as my_module:suite'
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f'{module_name}.'.startswith(f'{error.name}.'):
            raise UserError(
                f'--suite={reference}: importing {module_name} failed ({error!r})'
            ) from error
        raise UserError(
            f'--suite={reference}: no module {error.name} on the path; add its folder to PYTHONPATH'
        ) from error
    except Exception as error:
        raise UserError(
            f'--suite={reference}: importing {module_name} failed ({error!r})'
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f'--suite={reference}: {module.__file__} has no {attribute}')
    suite = getattr(module, attribute)
    if not isinstance(suite, Suite):
        raise UserError(
            f'--suite={reference}: is a {type(suite).__name__}, not an object of a subclass of '
            'envs.Suite'
        )
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
    for candidate in candidates:
        if (task := candidate.parse(env_name)) is not None:
            return task
    known = '; '.join(candidate.names for candidate in candidates)
    raise UserError(f'--env_name={env_name}: unknown; there are {known}')


def find_collection(dataset_name: str, suite: str | Suite | None = None) -> Suite:
    """Finds the suite that can collect a data set; arguments and errors as in `find_task`."""
    candidates = _candidates(suite)
    for candidate in candidates:
        if candidate.parse_dataset(dataset_name) is not None:
            return candidate
    known = '; '.join(candidate.dataset_names for candidate in candidates)
    raise UserError(
        f'--env_name={dataset_name}: not the name of data that can be collected; there are {known}'
    )


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
    task = _as_task(task)
    env = task.suite.make_env(task, render=render, **check_options(task, options))
    env = PlainValues(env, task.env_name, task.suite.score)
    return _with_unit_actions(env, task.env_name)


def _as_task(task: Task | str) -> Task:
    return find_task(task) if isinstance(task, str) else task


def _with_unit_actions(env: gymnasium.Env, env_name: str) -> gymnasium.Env:
    space = env.action_space
    if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype.kind != 'f':
        raise UserError(
            f'{env_name}: actions are {space}, but must be vectors of real numbers; give the '
            'environment a Box(low, high, (d_a,), np.float32)'
        )
    if not space.is_bounded('both'):
        raise UserError(
            f'{env_name}: actions are {space}, but must have finite bounds; set low and high of '
            "the environment's action_space"
        )
    if (space.low == space.high).any():
        raise UserError(
            f'{env_name}: actions are {space}, of which some have only one possible value; remove '
            "them from the environment's action_space"
        )
    unit = Box(-1, 1, space.shape, np.float32)
    if space == unit:
        return env
    return gymnasium.wrappers.TransformAction(env, _rescaling(space), unit)


def _rescaling(space: Box) -> Callable[[np.ndarray], np.ndarray]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def rescale(action: np.ndarray) -> np.ndarray:
        # Rounding may exceed the bounds slightly, which some environments reject.
        return np.clip(low + (high - low) * (action + 1) / 2, low, high).astype(space.dtype)

    return rescale


def make_dataset(
    task: Task | str,
    *,
    source: str = 'auto',
    num_episodes: int | None = None,
    seed: int = 0,
    num_workers: int | None = None,
    on_bad_shard: str = 'fail',
    **options,
) -> Dataset:
    """Finds, downloads or collects the offline data of an environment, and checks it.

    Args:
        task: from `find_task`, or the name of a registered suite's environment.
        source, num_episodes, seed, num_workers: see `DataRequest`.
        on_bad_shard: 'fail' for an unusable file, or 'skip' it with a warning.
        options: of the task's suite (`task.suite.options`).

    Raises:
        UserError: the environment, an option or the source is unknown.
        DatasetError: a file (with 'skip': every file) is damaged or does not match the request.
        UserError: the download or the collection failed.
    """
    task = _as_task(task)
    request = DataRequest(source, num_episodes, seed, num_workers)
    if on_bad_shard not in ON_BAD_SHARD:
        raise UserError(f'on_bad_shard={on_bad_shard}: must be one of {", ".join(ON_BAD_SHARD)}')
    options = check_options(task, options)
    dataset = task.suite.make_dataset(task, request=request, **options)
    dataset = _without_bad_shards(dataset, on_bad_shard)
    logging.info('Offline data %s: %s', dataset.name, json.dumps(dataset.provenance))
    return dataset


def _without_bad_shards(dataset: Dataset, on_bad_shard: str) -> Dataset:
    problems = [problem for problem in dataset.problems if problem is not None]
    if not problems:
        return dataset
    if on_bad_shard == 'fail' or len(problems) == len(dataset):
        raise DatasetError(problems[0])
    for problem in problems:
        logging.warning('Skipping a shard. %s', problem)
    good = [i for i, problem in enumerate(dataset.problems) if problem is None]
    kept = {key: tuple(getattr(dataset, key)[i] for i in good) for key in SHARD_FIELDS}
    return dataclasses.replace(dataset, **kept, problems=())
