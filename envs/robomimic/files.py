"""Robomimic's HDF5 files: reading and writing of rows and environment settings.

A file has `data/demo_<i>/{actions, rewards, dones, obs/<key>, next_obs/<key>}`, with a row per
action. `data` has the attribute `env_args`, JSON with the settings of the robosuite environment.
`env_args.json` has those of the public files of version 1.5, which differ only in `env_name`.
"""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from robomimic.envs.env_base import EnvType

from envs.layouts import Arrays, clip_actions, warn_once
from envs.npz import DatasetError, bad_file, reading
from envs.robomimic.names import ACTION_DIM, SCRIPTED, RobomimicTask

Node = Any  # a file, group or array of h5py, whose types do not distinguish them
ENV_ARGS = Path(__file__).with_name('env_args.json')


def default_env_args(task: RobomimicTask) -> dict[str, Any]:
    """Returns the `env_args` of the public data of a task.

    Scripted data has the same except for `lite_physics`, robosuite's default since 1.5, which saves
    a third of the time.
    """
    env_args = {'env_name': task.simulated, **json.loads(ENV_ARGS.read_text('utf-8'))}
    if task.kind == SCRIPTED:
        env_args['env_version'] = importlib.metadata.version('robosuite')
        env_args['env_kwargs']['lite_physics'] = True
    return env_args


def read_env_args(path: Path, task: RobomimicTask) -> dict[str, Any]:
    """Reads the environment's settings from a file.

    Raises:
        DatasetError: the file is damaged, lacks them, or is of another task.
    """
    with _open(path, task) as file:
        return file.env_args()


def check_file(path: Path, task: RobomimicTask) -> int:
    """Checks everything in a file except the numbers in its observations and actions.

    Returns:
        The number of rows that `read_file` returns.

    Raises:
        DatasetError: the file is damaged, is of another task, or its rows do not fit the task.
    """
    with _open(path, task) as file:
        file.env_args()
        return sum(length + 1 for _, _, length in file.demos())


def read_file(path: Path, task: RobomimicTask) -> Arrays:
    """Reads the rows of a file.

    A demonstration is an episode. Its rewards 1 and 0 become 0 and −1, and a rewarded row has mask
    0: the task is solved. Demonstrations continue briefly after that; rows up to the end of the
    first unbroken run of successes are kept, so that chunks which start shortly before the success
    are full, and later rows are dropped. The next observation of the last row becomes the final
    row. A demonstration without success counts as truncated, whatever its `dones`.

    Returns:
        See `envs.datasets.Dataset.load`.

    Raises:
        DatasetError: as in `check_file`, or a number is not finite.
    """
    with _open(path, task) as file:
        episodes = [file.read(*demo) for demo in file.demos()]
    rows = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
    clip_actions(rows['actions'], path)
    return rows


def write_file(path: Path, task: RobomimicTask, episodes: list[Arrays]) -> None:
    """Writes scripted demonstrations in the format of robomimic's own tools.

    Args:
        path: of the new file.
        task: of the demonstrations.
        episodes: from `Demonstrator.play`.
    """
    file: Node
    with h5py.File(path, 'w') as file:
        data = file.create_group('data')
        data.attrs['env_args'] = json.dumps(default_env_args(task), indent=4)
        data.attrs['total'] = sum(len(episode['actions']) - 1 for episode in episodes)
        for number, episode in enumerate(episodes):
            demo = data.create_group(f'demo_{number}')
            demo.attrs['num_samples'] = len(episode['actions']) - 1
            demo.attrs['model_file'] = episode['model'].item().decode()
            for key in ('actions', 'rewards', 'states'):
                demo[key] = episode[key][:-1]
            dones = episode['rewards'][:-1].astype(np.int64)
            dones[-1] = 1  # as in the public files
            demo['dones'] = dones
            for key, columns in task.columns.items():
                rows = episode['observations'][:, columns]
                demo[f'obs/{key}'], demo[f'next_obs/{key}'] = rows[:-1], rows[1:]


@contextlib.contextmanager
def _open(path: Path, task: RobomimicTask) -> Iterator['_File']:
    with reading(path, _fix(task)), h5py.File(path, 'r', locking=False) as file:
        yield _File(file, path, task)


def _fix(task: RobomimicTask) -> str:
    again = 'its manifest, and collect' if task.kind == SCRIPTED else 'download'
    return f'delete it and {again} it again'


class _File:
    """An open file of demonstrations of a task."""

    def __init__(self, file: Node, path: Path, task: RobomimicTask):
        self._file, self._path, self._task = file, path, task

    def error(self, what: str) -> DatasetError:
        """Returns the error that names this file."""
        return bad_file(self._path, what, _fix(self._task))

    def env_args(self) -> dict[str, Any]:
        """Returns the environment's settings."""
        try:
            env_args = json.loads(self._file['data'].attrs['env_args'])
            kind, name = env_args['type'], env_args['env_name']
            env_args['env_kwargs']['robots']
        except (ValueError, TypeError, KeyError) as error:
            what = 'has no env_args of data that describe an environment'
            raise self.error(f'{what} ({error!r})') from error
        if (kind, name) != (EnvType.ROBOSUITE_TYPE, self._task.simulated):
            wanted = f'{self._task.simulated} (type {EnvType.ROBOSUITE_TYPE})'
            raise self.error(f'is data of {name} (type {kind}); {self._task.dataset} is {wanted}')
        return env_args

    def demos(self) -> Iterator[tuple[str, Node, int]]:
        """Yields each demonstration's name, group and number of rows to keep, by number."""
        data = self._file['data']
        names = [name for name in data if name.removeprefix('demo_').isdigit()]
        if empty := [name for name in names if not len(data[name].get('actions', 'none'))]:
            warn_once(f'{self._path}: {", ".join(empty)} without rows; left out.')
            names = [name for name in names if name not in empty]
        if not names:
            raise self.error('has no demonstrations (data/demo_0 and so on)')
        for name in sorted(names, key=lambda name: int(name.removeprefix('demo_'))):
            yield name, data[name], self._check(name, data[name])

    def _check(self, name: str, demo: Node) -> int:
        """Checks a demonstration; returns the number of rows to keep."""
        widths = {'actions': (ACTION_DIM,), 'rewards': ()}
        for key, width in self._task.widths.items():
            widths[f'obs/{key}'] = widths[f'next_obs/{key}'] = (width,)
        if missing := [key for key in widths if not isinstance(demo.get(key), h5py.Dataset)]:
            raise self.error(f'{name} has no {", ".join(missing)}')
        length = len(demo['actions'])
        for key, width in widths.items():
            shape, dtype = demo[key].shape, demo[key].dtype
            if shape != (length, *width) or dtype.kind not in 'fiub':
                needs = f'{self._task.dataset} needs numbers {(length, *width)}'
                raise self.error(f'{name}: {key} is {dtype} {shape}, {needs}')
        rewards = demo['rewards'][()]
        if not np.isin(rewards, (0, 1)).all():
            raise self.error(f'{name}: rewards are not all 0 or 1, as sparse rewards are')
        return _length(rewards)

    def read(self, name: str, demo: Node, length: int) -> Arrays:
        """Reads the first `length` rows of a demonstration, and its final state."""
        observations = np.empty((length + 1, self._task.observation_dim), np.float32)
        for key, columns in self._task.columns.items():
            observations[:-1, columns] = demo[f'obs/{key}'][:length]
            observations[-1, columns] = demo[f'next_obs/{key}'][length - 1]
        actions = np.zeros((length + 1, ACTION_DIM), np.float32)
        with np.errstate(over='ignore'):  # numbers too large for float32 are reported below
            actions[:-1] = demo['actions'][:length]
        for key, rows in (('observations', observations), ('actions', actions)):
            if not np.isfinite(rows).all():
                row = np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]
                raise self.error(f'{name}: {key} are not finite in row {row}')
        solved = np.append(demo['rewards'][:length], 0).astype(np.float32)
        return {
            'observations': observations,
            'actions': actions,
            'rewards': solved - 1,
            'masks': 1 - solved,
            'terminals': np.arange(length + 1) == length,
        }


def _length(rewards: np.ndarray) -> int:
    """Returns the number of rows [T] until the end of the first run of successes."""
    solved = rewards > 0
    first = int(solved.argmax())
    later = np.flatnonzero(~solved[first:])
    return first + int(later[0]) if solved.any() and len(later) else len(solved)
