"""OGBench's data of the cube tasks: its files, where they come from, their rewards.

Each file has observations, actions, terminals and qpos [R, ...]. Rewards are computed from qpos for
the task that is asked for.
"""

import functools
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from ogbench.relabel_utils import relabel_dataset
from ogbench.utils import DATASET_URL

from envs import datasets
from envs.datasets import Arrays, Dataset, DatasetError
from envs.ogbench.names import CubeTask, cubes_of
from envs.ogbench.tasks import make_env

ACTION_LIMIT = 1 - 1e-5  # keeps actions inside the open interval
RELABEL_ROWS = 100_000  # rows given rewards at a time, to bound temporary memory
PUBLIC_EPISODES = {'single': 1000, 'double': 1000, 'triple': 3000, 'quadruple': 5000}


def make_dataset(
    task: CubeTask,
    directory: str | Path,
    source: str,
    num_episodes: int | None,
    seed: int,
    num_workers: int | None,
    sparse: bool,
) -> Dataset:
    """Finds, downloads or collects the data of a task; see `envs.make_dataset`.

    Actions are clipped to ±ACTION_LIMIT. Rewards and masks are those of the row's own state, as
    OGBench labels them.

    Args:
        task: whose data, with whose rewards.
        directory: where the files are or shall be.
        source: 'auto', 'download' or 'collect'.
        num_episodes: to collect; None: as many as the public data has.
        seed: of the collection.
        num_workers: processes that collect; None: one per core.
        sparse: turns any non-zero reward into −1.
    """
    name, directory = task.dataset, Path(directory).expanduser()
    if num_episodes is None:
        num_episodes = public_episodes(name)
    paths, provenance = datasets.obtain(
        name,
        directory,
        source,
        num_episodes=num_episodes,
        seed=seed,
        download=functools.partial(download, name, directory),
        collect=functools.partial(
            datasets.run_collection,
            collect_command(name, num_episodes),
            directory,
            seed,
            num_workers,
        ),
        manifest_keys=('episodes', 'seed', 'ogbench'),
    )
    env = make_env(task)
    num_rows = tuple(check_file(path, env) for path in paths)
    read_shard = functools.partial(_read_shard, env=env, sparse=sparse)
    return Dataset(name, tuple(paths), num_rows, provenance, read_shard)


def public_episodes(name: str) -> int:
    """The number of training episodes, of 1000 transitions each, in the public data set."""
    return 100_000 if '-100m-' in name else PUBLIC_EPISODES[cubes_of(name)]


def collect_command(name: str, num_episodes: int) -> str:
    """The command that collects data like `name`, in shards of 1M transitions where those are."""
    num_shards = -(-num_episodes // 1000) if '-100m-' in name else 1
    return datasets.collect_command(name, num_episodes, num_shards)


def download(name: str, directory: Path) -> Path:
    """Downloads the training file of `name` from OGBench's server, or from OGBENCH_DATASET_URL.

    Raises:
        DatasetError: this data set is not downloaded automatically.
        UserError: the download failed; the message has the command that collects such data.
    """
    command = collect_command(name, public_episodes(name))
    if '-100m-' in name:
        raise DatasetError(
            f'{name}: not in {directory}, and too large to be downloaded automatically; download '
            'its files by hand and give their directory with --ogbench_dataset_dir, or collect '
            f'such data: {command}'
        )
    url = f'{os.environ.get("OGBENCH_DATASET_URL", DATASET_URL)}/{name}.npz'
    return datasets.download_file(url, directory, name, f'collect such data here: {command}')


def check_file(path: Path, env: gymnasium.Env) -> int:
    """Checks all of a data file that can be checked without reading it whole.

    Args:
        path: .npz file.
        env: the environment that the data is for; is reset.

    Returns:
        The number of its rows.

    Raises:
        DatasetError: the file is damaged, lacks an array, or does not fit the environment.
    """
    env.reset()  # builds the model
    scene: Any = env.unwrapped
    widths = {
        'observations': scene.observation_space.shape,
        'actions': scene.action_space.shape,
        'terminals': (),
        'qpos': (scene.model.nq,),
    }
    return datasets.check_npz(path, widths, scene.spec.id)


def _read_shard(path: Path, env: gymnasium.Env, sparse: bool) -> Arrays:
    with datasets.reading(path), np.load(path) as file:
        qpos = file['qpos']
        datasets.check_finite(path, 'qpos', qpos)
        rewards, masks = _label(qpos, env)
        del qpos  # before the next large array is read
        terminals = file['terminals'].astype(bool, copy=False)
        observations = file['observations'].astype(np.float32, copy=False)
        actions = file['actions'].astype(np.float32, copy=False)
    for key, rows in (('observations', observations), ('actions', actions)):
        datasets.check_finite(path, key, rows)
    np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)
    if sparse:
        rewards[rewards != 0] = -1
    return {
        'observations': observations,
        'actions': actions,
        'rewards': rewards,
        'masks': masks,
        'terminals': terminals,
    }


def _label(qpos: np.ndarray, env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    scene: Any = env.unwrapped
    rewards, masks = np.empty((2, len(qpos)), np.float32)
    for start in range(0, len(qpos), RELABEL_ROWS):
        rows = slice(start, start + RELABEL_ROWS)
        block = {'qpos': qpos[rows]}
        relabel_dataset(scene.spec.id, env, block)
        rewards[rows], masks[rows] = block['rewards'], block['masks']
    return rewards, masks
