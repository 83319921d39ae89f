"""OGBench's data for its manipulation tasks: files, downloads and rewards.

Each file has observations, actions, terminals and qpos [R, ...], and for scenes with buttons
button_states [R, buttons]. The last two determine the rewards of a task.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from ogbench.relabel_utils import relabel_dataset
from ogbench.utils import DATASET_URL

from envs import datasets
from envs.datasets import (
    DataRequest,
    Dataset,
    DatasetError,
    as_command,
    collect_arguments,
    files_in,
)
from envs.downloads import download_file
from envs.layouts import Arrays, clip_actions
from envs.npz import Column, DataFile
from envs.ogbench.names import PlayTask, is_large, large_name, plain_name, scene_of
from envs.ogbench.tasks import make_env

# OGBench's server, and the copy that its author recommends, which lacks the 100M data:
# github.com/seohongpark/ogbench/issues/49.
HOSTS = (DATASET_URL, 'https://huggingface.co/datasets/zhouzypaul/ogbench_datasets/resolve/main')
SHA256 = {
    'cube-double-play-v0.npz': 'a73d1a33d029cedb8bc170ef94791ec585fa2d9450096f4f2a02b8cfbcf608c9',
    'cube-double-play-v0-val.npz': (
        'b1fcdf4bd40750351a58d0d491d6be198366ce898f0c6a2e4cb5db331966013e'
    ),
}
STATE = {'qpos', 'button_states'}  # determine the rewards
RELABEL_ROWS = 100_000  # rows labelled at a time, to bound temporary memory
PUBLIC_EPISODES = {
    'cube-single': 1000,
    'cube-double': 1000,
    'cube-triple': 3000,
    'cube-quadruple': 5000,
    'cube-octuple': 5000,  # our choice: only its 100M data is public
    'scene': 1000,
    'puzzle-3x3': 1000,
    'puzzle-4x4': 1000,
    'puzzle-4x5': 3000,
    'puzzle-4x6': 5000,
}


def make_dataset(task: PlayTask, directory: Path, request: DataRequest, sparse: bool) -> Dataset:
    """Finds, downloads or collects the data of a task; see `envs.make_dataset`.

    Actions are clipped to ±ACTION_LIMIT. Rewards and masks judge the row's own state, as in
    OGBench.

    Args:
        task: determines the data and its rewards.
        directory: of the files.
        request: which data; by default as many episodes as the public data has.
        sparse: turns any non-zero reward into −1.
    """
    name = task.dataset
    num_episodes = request.num_episodes or public_episodes(name)
    paths, provenance = datasets.obtain(
        name,
        directory,
        request,
        num_episodes=num_episodes,
        num_shards=num_shards(name, num_episodes),
        download=functools.partial(download, name, directory),
        manifest_keys=('episodes', 'seed', 'ogbench'),
        find=find_files,
    )
    env = make_env(task)
    columns = row_columns(env)
    check = functools.partial(_check_shard, columns=columns, env_name=task.env_id)
    read = functools.partial(_read_shard, columns=columns, env=env, sparse=sparse)
    return datasets.open_shards(name, paths, provenance, check, read)


def find_files(directory: Path, name: str) -> list[Path]:
    """The training files of `name` in `directory` or its subdirectory `name`, in order.

    The public 100M data is in a folder such as cube-quadruple-play-100m-v0, but its files are named
    cube-quadruple-play-v0-000.npz and so on. In such a folder they are the 100M data, elsewhere
    shards of the plain data.

    Raises: see `datasets.files_in`.
    """
    plain, large = plain_name(name), large_name(name)
    for folder in (directory, directory / name):
        is_of_large = large in (folder.absolute().name, Path(os.path.realpath(folder)).name)
        paths = files_in(folder, [name, plain] if is_of_large and name == large else [name])
        if is_of_large and name == plain:
            paths = [path for path in paths if path.name == f'{name}.npz']
        if paths:
            return paths
    return []


def public_episodes(name: str) -> int:
    """Returns the number of training episodes, of 1000 transitions, in the public data set."""
    return 100_000 if is_large(name) else PUBLIC_EPISODES[scene_of(name)]


def num_shards(name: str, num_episodes: int) -> int:
    """Returns the number of files for data like `name`: with 1M transitions each, if several."""
    return -(-num_episodes // 1000) if is_large(name) else 1


def hosts(name: str) -> list[str]:
    """Returns the servers to try for a data set, with OGBENCH_DATASET_URL first if it is set."""
    own = os.environ.get('OGBENCH_DATASET_URL')
    public = HOSTS[:1] if is_large(name) else HOSTS
    return [host.rstrip('/') for host in ([own] if own else []) + [*public]]


def collect_command(name: str, directory: Path) -> str:
    """Returns the command to collect as much data as `name` has."""
    num = public_episodes(name)
    return as_command(collect_arguments(name, num, num_shards(name, num), save_dir=directory))


def download_to(path: Path, urls: Sequence[str], name: str) -> str | None:
    """Downloads a file of the data set `name`, see `download_file`."""
    otherwise = 'name a mirror with OGBENCH_DATASET_URL, or collect such data here: '
    otherwise += collect_command(name, path.parent)
    return download_file(urls, path, otherwise, sha256=SHA256.get(path.name))


def download(name: str, directory: Path) -> str | None:
    """Downloads the training file of `name`; returns its URL.

    Raises:
        DatasetError: this data set is only downloaded by `envs.download`.
        UserError: the download failed; the message has the command to collect such data.
    """
    if is_large(name):
        arguments = ['-m', 'envs.download', f'--dataset={name}']
        fetch = as_command([*arguments, f'--save_dir={directory.absolute()}'])
        raise DatasetError(
            f'{name}: not in {directory}, and too large to be downloaded automatically; download '
            f'it: {fetch}, or collect such data: {collect_command(name, directory)}'
        )
    urls = [f'{host}/{name}.npz' for host in hosts(name)]
    return download_to(directory / f'{name}.npz', urls, name)


def row_columns(env: gymnasium.Env) -> dict[str, Column]:
    """Returns the arrays that a file must have besides terminals.

    Args:
        env: of the data; it is reset.
    """
    env.reset()  # builds the model
    scene: Any = env.unwrapped
    columns = {
        'observations': Column(scene.observation_space.shape),
        'actions': Column(scene.action_space.shape),
        'qpos': Column((scene.model.nq,)),
    }
    if scene._num_buttons:
        columns['button_states'] = Column((scene._num_buttons,))
    return columns


def _check_shard(file: DataFile, columns: dict[str, Column], env_name: str) -> int:
    num_rows = file.check({**columns, 'terminals': Column((), bool)}, env_name)
    file.read_terminals()
    return num_rows


def _read_shard(
    file: DataFile, columns: dict[str, Column], env: gymnasium.Env, sparse: bool
) -> Arrays:
    state = file.read_finite({key: columns[key] for key in columns.keys() & STATE})
    rewards, masks = _label(state, env)
    del state  # free it before reading the next large array
    arrays = file.read_finite({key: columns[key] for key in ('observations', 'actions')})
    clip_actions(arrays['actions'], file.path)
    if sparse:
        rewards[rewards != 0] = -1
    return {**arrays, 'rewards': rewards, 'masks': masks, 'terminals': file.read_terminals()}


def _label(state: Arrays, env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    scene: Any = env.unwrapped
    num_rows = len(state['qpos'])
    rewards, masks = np.empty((2, num_rows), np.float32)
    for start in range(0, num_rows, RELABEL_ROWS):
        rows = slice(start, start + RELABEL_ROWS)
        block = {key: array[rows] for key, array in state.items()}
        relabel_dataset(scene.spec.id, env, block)
        rewards[rows], masks[rows] = block['rewards'], block['masks']
    return rewards, masks
