"""Where experience comes from: environments and offline data, by their usual names."""

import atexit
import multiprocessing
import warnings
from functools import partial
from multiprocessing import forkserver

import gymnasium

from envs import cube, datasets
from envs.chunks import ActionChunks, EndlessPlay, EpisodeQueue
from envs.datasets import Dataset, DatasetError

__all__ = [
    'Dataset',
    'DatasetError',
    'make_dataset',
    'make_env',
    'make_vector_env',
    'start_workers',
]


def make_env(
    env_name: str, sparse: bool = False, success_timing: str = 'pre', render: bool = False
) -> gymnasium.Env:
    """Makes an environment.

    Observations are [d_s] float32, actions [d_a] float32 in [-1, 1], and info has 'success' (bool)
    and little else. `reset(seed=s)` makes the episode that follows reproducible, bit by bit.

    Args:
        env_name: such as 'cube-double-play-singletask-task2-v0'. A '-100m-' in the name changes
            the data set only.
        sparse: turns any non-zero reward into −1.
        success_timing: 'pre' takes reward, success and termination from the state before the
            action, as OGBench does since 1.2.0, so that an episode ends one step after the goal is
            reached; 'post' takes them from the state after it. Rewards of offline data follow
            'pre' in either case.
        render: lets `env.render()` return images [H, W, 3] uint8 that show which cubes are at
            their goal. Without a display, set MUJOCO_GL=egl or MUJOCO_GL=osmesa.

    Raises:
        ValueError: no such environment or timing.
    """
    return cube.make_env(env_name, sparse, success_timing, render)


def make_vector_env(
    env_name: str, num_envs: int, horizon_length: int, mode: str, **options
) -> gymnasium.vector.VectorEnv:
    """Makes parallel environments, each in a process of its own.

    Args:
        env_name: as for `make_env`, like the `options`.
        num_envs: how many.
        horizon_length: actions in a chunk.
        mode: 'evaluate' for environments that play lists of episodes (`envs.chunks.EpisodeQueue`),
            'play' for the online phase (`envs.chunks.EndlessPlay`).
    """
    start_workers()
    make = partial(_make_worker, env_name, horizon_length, mode, **options)
    env = gymnasium.vector.AsyncVectorEnv([make] * num_envs, context='forkserver')
    atexit.register(_end, env)  # else an error elsewhere is followed by errors of theirs
    return env


def _end(env: gymnasium.vector.AsyncVectorEnv) -> None:
    with warnings.catch_warnings():  # they may be at work
        warnings.simplefilter('ignore')
        env.close(terminate=True)


def start_workers() -> None:
    """Starts the process that `make_vector_env` forks its own from, and returns at once.

    It imports what they need, once for all of them; who calls this early does not wait for it.
    """
    # They run the main program's imports too, jax and all.
    multiprocessing.set_forkserver_preload(['envs', 'agents', 'utils.logs', 'utils.checkpoints'])
    forkserver.ensure_running()


def _make_worker(env_name: str, horizon_length: int, mode: str, **options) -> gymnasium.Env:
    wrapper = {'evaluate': EpisodeQueue, 'play': EndlessPlay}[mode]
    return wrapper(ActionChunks(make_env(env_name, **options), horizon_length))


def make_dataset(
    env_name: str,
    directory: str | None = None,
    source: str = 'auto',
    sparse: bool = False,
    num_episodes: int | None = None,
    seed: int = 0,
    num_workers: int | None = None,
) -> Dataset:
    """Finds, downloads or collects the offline data of an environment, and checks it.

    Args:
        env_name: as for `make_env`.
        directory: where the files are or shall be; by default '~/.ogbench/data'.
        source: 'auto' takes the files in `directory` if there are any, whatever made them, and
            downloads them otherwise. 'download' takes or fetches the public files. 'collect' takes
            or makes a scripted collection of exactly `num_episodes` and `seed`.
        sparse: turns any non-zero reward into −1.
        num_episodes: episodes to collect; by default as many as the public data set has.
        seed: of the collection.
        num_workers: processes that collect; by default one per core.

    Raises:
        ValueError: no such environment or source.
        DatasetError: files that are broken, or are not what was asked for.
        RuntimeError: the download or the collection failed.
    """
    return datasets.make_dataset(
        env_name, directory, source, sparse, num_episodes, seed, num_workers
    )
