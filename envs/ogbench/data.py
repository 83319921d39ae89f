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
from ogbench.relabel_utils import relabel_dataset
from ogbench.utils import DATASET_URL

from envs import datasets
from envs.datasets import DataRequest, Dataset
from envs.downloads import download_file
from envs.files import files_in
from envs.layouts import Arrays, clip_actions
from envs.npz import Column, DataFile, DatasetError
from envs.ogbench.names import SingleTask, is_large, scene_of
from envs.ogbench.tasks import make_env
from envs.suite import Suite

# OGBench's server, and the copy that its author recommends, which lacks the 100M data:
# github.com/seohongpark/ogbench/issues/49.
HOSTS = (DATASET_URL, 'https://huggingface.co/datasets/zhouzypaul/ogbench_datasets/resolve/main')
SHA256 = {
    'cube-double-play-v0': 'a73d1a33d029cedb8bc170ef94791ec585fa2d9450096f4f2a02b8cfbcf608c9',
    'cube-double-play-v0-val': 'b1fcdf4bd40750351a58d0d491d6be198366ce898f0c6a2e4cb5db331966013e',
}
STATE = {'qpos', 'button_states'}  # determine the rewards
COLLECT = 'collect such data here with --dataset_source=collect'
LARGER = {'cube-triple': 3000, 'cube-quadruple': 5000, 'puzzle-4x5': 3000, 'puzzle-4x6': 5000}
EPISODES = {'cube-octuple': 5000, **LARGER}  # octuple: our choice, only its 100M data is public


def make_dataset(
    suite: Suite, task: SingleTask, directory: Path, request: DataRequest, sparse: bool
) -> Dataset:
    """Finds, downloads or collects the data of a task; see `envs.make_dataset`.

    Actions are clipped to ±ACTION_LIMIT. Rewards and masks judge the row's own state, as in
    OGBench.

    Args:
        suite: of the task.
        task: determines the data and its rewards.
        directory: of the files.
        request: which data; by default as many episodes as the public data has.
        sparse: turns any non-zero reward into −1.
    """
    name = task.dataset
    num = request.num_episodes or public_episodes(name)
    shards = -(-num // 1000) if is_large(name) else 1
    fetch = functools.partial(download, name, directory)
    paths, provenance = datasets.obtain(
        suite, name, directory, request, fetch, num, num_shards=shards, find=find_files
    )
    env = make_env(task)
    columns = row_columns(env)

    def check(file: DataFile) -> int:
        num_rows = file.check({**columns, 'terminals': Column((), bool)}, task.env_id)
        file.read_terminals()
        return num_rows

    def read(file: DataFile) -> Arrays:
        state: Any = file.read_finite({key: columns[key] for key in columns.keys() & STATE})
        relabel_dataset(task.env_id, env, state)
        rewards, masks = state['rewards'], state['masks']
        del state  # free it before reading the next large array
        arrays = file.read_finite({key: columns[key] for key in ('observations', 'actions')})
        clip_actions(arrays['actions'], file.path)
        if sparse:
            rewards[rewards != 0] = -1
        return {**arrays, 'rewards': rewards, 'masks': masks, 'terminals': file.read_terminals()}

    return datasets.open_shards(name, paths, provenance, check, read)


def find_files(directory: Path, name: str) -> list[Path]:
    """The training files of `name` in `directory` or its subdirectory `name`, in order.

    The public 100M data is in a folder such as cube-quadruple-play-100m-v0, but its files are named
    cube-quadruple-play-v0-000.npz and so on. In such a folder they are the 100M data, elsewhere
    shards of the plain data.
    """
    plain = name.replace('-100m-', '-')
    for folder in (directory, directory / name):
        is_100m = is_large(folder.absolute().name) or is_large(Path(os.path.realpath(folder)).name)
        paths = files_in(folder, [name, plain] if is_100m else [name])
        if is_100m and name == plain:
            paths = [path for path in paths if path.stem == name]
        if paths:
            return paths
    return []


def public_episodes(name: str) -> int:
    """Returns the number of training episodes, of 1000 transitions, in the public data set."""
    return 100_000 if is_large(name) else EPISODES.get(scene_of(name), 1000)


def hosts(name: str) -> list[str]:
    """Returns the servers to try for a data set, with OGBENCH_DATASET_URL first if it is set."""
    own = os.environ.get('OGBENCH_DATASET_URL')
    public = HOSTS[:1] if is_large(name) else HOSTS
    return [host.rstrip('/') for host in (own, *public) if host]


def download_to(path: Path, urls: Sequence[str], name: str) -> str | None:
    """Downloads a file of the data set `name`, see `download_file`."""
    otherwise = f'name a mirror with OGBENCH_DATASET_URL, or {COLLECT}'
    return download_file(urls, path, otherwise, sha256=SHA256.get(path.stem))


def download(name: str, directory: Path) -> str | None:
    """Downloads the training file of `name`; returns its URL.

    Raises:
        DatasetError: this data set is only downloaded by `envs.download`.
        UserError: the download failed.
    """
    if is_large(name):
        command = f'python -m envs.download --dataset={name} --save_dir={directory}'
        what = f'not in {directory}, and too large to be downloaded automatically'
        raise DatasetError(f'{name}: {what}; download it: {command}, or {COLLECT}')
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
