"""Robomimic's HDF5 files: reading and writing of rows and environment settings.

A file has `data/demo_<i>/{actions, rewards, dones, obs/<key>, next_obs/<key>}`, with a row per
action. `data` has the attribute `env_args`, JSON with the settings of the robosuite environment.
"""

import contextlib
import copy
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from robomimic.envs.env_base import EnvType

from envs.layouts import Arrays, clip_actions, warn_once
from envs.npz import bad_file
from envs.robomimic.names import ACTION_DIM, SCRIPTED, RobomimicTask
from utils.errors import UserError

Node = Any  # a file, group or array of h5py, whose types do not distinguish them


# Settings in the public files of version 1.5, which differ only in `env_name`.
PUBLIC_VERSION = '1.5.1'
PUBLIC_SETTINGS = {
    'has_renderer': False,
    'has_offscreen_renderer': False,
    'ignore_done': True,
    'use_object_obs': True,
    'use_camera_obs': False,
    'control_freq': 20,
    'controller_configs': {
        'type': 'BASIC',
        'body_parts': {
            'right': {
                'type': 'OSC_POSE',
                'input_max': 1,
                'input_min': -1,
                'output_max': [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
                'output_min': [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
                'kp': 150,
                'damping': 1,
                'impedance_mode': 'fixed',
                'kp_limits': [0, 300],
                'damping_limits': [0, 10],
                'position_limits': None,
                'orientation_limits': None,
                'uncouple_pos_ori': True,
                'control_delta': True,
                'interpolation': None,
                'ramp_ratio': 0.2,
                'input_ref_frame': 'world',
                'gripper': {'type': 'GRIP'},
            }
        },
    },
    'robots': ['Panda'],
    'camera_depths': False,
    'camera_heights': 84,
    'camera_widths': 84,
    'lite_physics': False,
    'reward_shaping': False,
}


def default_env_args(task: RobomimicTask) -> dict[str, Any]:
    """Returns the `env_args` of the public data of a task.

    Scripted data has the same except for `lite_physics`, robosuite's default since 1.5, which saves
    a third of the time.
    """
    version, settings = PUBLIC_VERSION, copy.deepcopy(PUBLIC_SETTINGS)
    if task.kind == SCRIPTED:
        version, settings['lite_physics'] = importlib.metadata.version('robosuite'), True
    return {
        'env_name': task.simulated,
        'env_version': version,
        'type': EnvType.ROBOSUITE_TYPE,
        'env_kwargs': settings,
    }


def read_env_args(path: Path, task: RobomimicTask) -> dict[str, Any]:
    """Reads the environment's settings from a file.

    Raises:
        DatasetError: the file is damaged, lacks them, or is of another task.
    """
    with _open(path, task) as file:
        return _env_args(file, path, task)


def check_file(path: Path, task: RobomimicTask) -> int:
    """Checks everything in a file except the numbers in its observations and actions.

    Returns:
        The number of rows that `read_file` returns.

    Raises:
        DatasetError: the file is damaged, is of another task, or its rows do not fit the task.
    """
    with _open(path, task) as file:
        _env_args(file, path, task)
        lengths = [_check_demo(name, demo, path, task) for name, demo in _demos(file, path, task)]
    return sum(lengths) + len(lengths)


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
    episodes = []
    with _open(path, task) as file:
        for name, demo in _demos(file, path, task):
            length = _check_demo(name, demo, path, task)
            episodes.append(_read_demo(name, demo, length, path, task))
    rows = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
    clip_actions(rows['actions'], path)
    return rows


def write_file(path: Path, task: RobomimicTask, episodes: list[Arrays]) -> None:
    """Writes scripted demonstrations in the format of robomimic's own tools.

    Args:
        path: of the new file.
        task: of the demonstrations.
        episodes: from `DemonstrationScript.play`.
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
            first = 0
            for key, width in task.widths.items():
                rows = episode['observations'][:, first : first + width]
                demo[f'obs/{key}'], demo[f'next_obs/{key}'] = rows[:-1], rows[1:]
                first += width


@contextlib.contextmanager
def _open(path: Path, task: RobomimicTask) -> Iterator[Node]:
    """Opens a file; turns errors of a damaged one into a DatasetError that names it."""
    try:
        with h5py.File(path, 'r', locking=False) as file:
            yield file
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise bad_file(
            path, f'cannot be read, it may be cut off or damaged ({reason})', _fix(task)
        ) from error


def _fix(task: RobomimicTask) -> str:
    if task.kind == SCRIPTED:
        return 'delete it and its manifest, and collect it again'
    return 'delete it and download it again'


def _env_args(file: Node, path: Path, task: RobomimicTask) -> dict[str, Any]:
    text = file['data'].attrs.get('env_args') if 'data' in file else None
    if text is None:
        raise bad_file(path, "data has no env_args, the environment's settings", _fix(task))
    try:
        env_args = json.loads(text)
        name, kind, settings = (env_args[key] for key in ('env_name', 'type', 'env_kwargs'))
        robots = settings['robots']
    except (ValueError, TypeError, KeyError) as error:
        raise bad_file(
            path, f'its env_args do not describe an environment ({error!r})', _fix(task)
        ) from error
    if kind != EnvType.ROBOSUITE_TYPE:
        raise bad_file(
            path, f'its env_args have type {kind}, not the type of robosuite', _fix(task)
        )
    if name != task.simulated:
        raise bad_file(
            path,
            f'is data of {name}, but {task.dataset} is {task.simulated}',
            'replace it with the file of that task',
        )
    if not robots or len([robots] if isinstance(robots, str) else robots) != 1:
        raise bad_file(path, f'its env_args have robots {robots!r}, not one', _fix(task))
    return env_args


def _demos(file: Node, path: Path, task: RobomimicTask) -> Iterator[tuple[str, Node]]:
    """Yields the names and groups of a file's demonstrations, ordered by number."""
    data = file['data']
    names = [name for name in data if name.removeprefix('demo_').isdigit()]
    if empty := [name for name in names if not len(data[name].get('actions', 'none'))]:
        warn_once(f'{path}: {", ".join(empty)} without rows; left out.')
        names = [name for name in names if name not in empty]
    if not names:
        raise bad_file(path, 'has no demonstrations (data/demo_0 and so on)', _fix(task))
    for name in sorted(names, key=lambda name: int(name.removeprefix('demo_'))):
        yield name, data[name]


def _check_demo(name: str, demo: Node, path: Path, task: RobomimicTask) -> int:
    """Checks a demonstration; returns the number of rows to keep."""
    widths = {'actions': (ACTION_DIM,), 'rewards': ()}
    for key, width in task.widths.items():
        widths[f'obs/{key}'] = widths[f'next_obs/{key}'] = (width,)
    if missing := [key for key in widths if not isinstance(demo.get(key), h5py.Dataset)]:
        raise bad_file(path, f'{name} has no {", ".join(missing)}', _fix(task))
    for key, width in widths.items():
        shape, kind = demo[key].shape, demo[key].dtype.kind
        if not shape or shape[1:] != width:
            needs = ', '.join(map(str, ('T', *width)))
            raise bad_file(
                path, f'{name}: {key} has shape {shape}, {task.dataset} needs ({needs})', _fix(task)
            )
        if kind not in 'fiub':
            raise bad_file(path, f'{name}: {key} has no numbers ({demo[key].dtype})', _fix(task))
        if shape[0] != len(demo['actions']):
            rows = f'{key} {shape[0]}, actions {len(demo["actions"])}'
            raise bad_file(path, f'{name}: row counts differ: {rows}', _fix(task))
    rewards = demo['rewards'][()]
    if not np.isin(rewards, (0, 1)).all():
        raise bad_file(
            path, f'{name}: rewards are not all 0 or 1', 'use the data with sparse rewards'
        )
    return _length(rewards)


def _length(rewards: np.ndarray) -> int:
    """Returns the number of rows [T] until the end of the first run of successes."""
    solved = rewards > 0
    if not solved.any():
        return len(solved)
    first = int(solved.argmax())
    later = np.flatnonzero(~solved[first:])
    return first + int(later[0]) if len(later) else len(solved)


def _read_demo(name: str, demo: Node, length: int, path: Path, task: RobomimicTask) -> Arrays:
    observations = np.empty((length + 1, task.observation_dim), np.float32)
    first = 0
    for key, width in task.widths.items():
        columns = slice(first, first + width)
        observations[:-1, columns] = demo[f'obs/{key}'][:length]
        observations[-1, columns] = demo[f'next_obs/{key}'][length - 1]
        first += width
    actions = np.zeros((length + 1, ACTION_DIM), np.float32)
    with np.errstate(over='ignore'):  # numbers too large for float32 are reported below
        actions[:-1] = demo['actions'][:length]
    for key, rows in (('observations', observations), ('actions', actions)):
        if not np.isfinite(rows).all():
            row = np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]
            raise bad_file(path, f'{name}: {key} are not finite in row {row}', _fix(task))
    solved = np.zeros(length + 1, np.float32)
    solved[:-1] = demo['rewards'][:length]
    return {
        'observations': observations,
        'actions': actions,
        'rewards': solved - 1,
        'masks': 1 - solved,
        'terminals': np.arange(length + 1) == length,
    }
