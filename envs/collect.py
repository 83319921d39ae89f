"""Collects play data with the scripted arm that ships with OGBench.

    python -m envs.collect --env_name=cube-double-play-v0 --num_episodes=1000 --num_workers=2

The arm carries a random cube to a random place, again and again, with noise in its plan; the files
have the format of OGBench's own, so `ogbench.load_dataset` reads them. Every episode is seeded by
(seed, split, index), so the same seed gives the same bytes on any number of workers.
Source: OGBench (arXiv 2410.20092), appendix on data collection.
"""

import contextlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from absl import app, flags
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
from ogbench.utils import DEFAULT_DATASET_DIR
from tqdm import tqdm

from envs.cube import EPISODE_ROWS, make_collection_env, parse_dataset

NOISE = {'noise': 0.1, 'noise_smoothing': 0.5}
SPLITS = {'train': 0, 'val': 1}
# The range from which an episode draws its probability of a target on top of another cube.
STACKING = {'single': (0, 0), 'double': (0, 0.25), 'triple': (0.05, 0.35), 'quadruple': (0.1, 0.5)}


def play_episode(env, oracle, stacking, seed):
    """Plays one episode.

    Args:
        env: of `make_collection_env`.
        oracle: `CubePlanOracle` on that environment.
        stacking: range of the episode's probability of a target on top of another cube.
        seed: tuple of non-negative integers that names the episode.

    Returns:
        Dict of arrays [EPISODE_ROWS, ...], float32: observations, actions, qpos and qvel (all of
        the state before the action), and bool: terminals, True on the last row.
    """
    env_seed, oracle_seed, own_seed = np.random.SeedSequence(seed).generate_state(3).tolist()
    np.random.seed(oracle_seed)  # noqa: NPY002  (the oracle draws from the global generator)
    p_stack = np.random.default_rng(own_seed).uniform(*stacking)

    rows = []
    observation, info = env.reset(seed=env_seed)
    oracle.reset(observation, info)
    truncated = False
    while not truncated:
        action = np.clip(oracle.select_action(observation, info), -1, 1)
        next_observation, _, _, truncated, info = env.step(action)
        rows.append((observation, action, truncated, info['prev_qpos'], info['prev_qvel']))
        observation = next_observation
        if oracle.done:
            observation, info = env.unwrapped.set_new_target(p_stack=p_stack)
            oracle.reset(observation, info)

    keys = ('observations', 'actions', 'terminals', 'qpos', 'qvel')
    return {
        key: np.array(column, bool if key == 'terminals' else np.float32)
        for key, column in zip(keys, zip(*rows, strict=True), strict=True)
    }


def collect(
    env_name,
    num_episodes,
    save_dir=DEFAULT_DATASET_DIR,
    num_workers=None,
    seed=0,
    num_shards=1,
    num_val_episodes=None,
):
    """Collects a data set into `save_dir`. Files appear there only once all of them are complete.

    One shard becomes <name>.npz, <name>-val.npz and <name>.json (the manifest: what made the
    files) in `save_dir`. Several become a folder <name>/ with <name>-000.npz and so on.

    Args:
        env_name: data set to imitate, such as 'cube-double-play-v0'.
        num_episodes: training episodes, each EPISODE_ROWS rows; the number of transitions is one
            less per episode.
        save_dir: directory for the files; made if need be.
        num_workers: processes; by default one per core this process may use.
        seed: non-negative integer.
        num_shards: files to spread the training episodes over. One shard is held in memory.
        num_val_episodes: episodes of the validation file; by default a tenth of `num_episodes`.

    Returns:
        The training files, sorted.

    Raises:
        ValueError: an argument makes no sense.
        FileExistsError: there are files already.
        RuntimeError: a worker died.
    """
    cubes = parse_dataset(env_name)
    if num_workers is None:
        num_workers = _num_cores()
    if num_val_episodes is None:
        num_val_episodes = num_episodes // 10
    _check_numbers(num_episodes, num_workers, seed, num_shards, num_val_episodes)

    save_dir = Path(save_dir).expanduser()
    part, names = _reserve(save_dir, env_name, num_shards)
    try:
        bounds = np.linspace(0, num_episodes, num_shards + 1).astype(int).tolist()
        plan = [(f'{env_name}-val.npz', 'val', range(num_val_episodes))] if num_val_episodes else []
        for name, span in zip(names, itertools.pairwise(bounds), strict=True):
            plan.append((name, 'train', range(*span)))
        transitions = (num_episodes + num_val_episodes) * (EPISODE_ROWS - 1)
        with (
            _workers(num_workers, cubes) as workers,
            tqdm(total=transitions, desc=env_name, unit=' transitions', unit_scale=True) as bar,
        ):
            for name, split, episodes in plan:
                jobs = [(seed, SPLITS[split], episode) for episode in episodes]
                with (part / name).open('wb') as file:
                    np.savez(file, **_play_all(workers, jobs, bar))
        manifest = {
            'source': 'collected',
            'name': env_name,
            'episodes': num_episodes,
            'val_episodes': num_val_episodes,
            'shards': num_shards,
            'seed': seed,
            'bytes': {name: (part / name).stat().st_size for name in names},
            'ogbench': importlib.metadata.version('ogbench'),
            'mujoco': importlib.metadata.version('mujoco'),
            **NOISE,
            'stacking': STACKING[cubes],
        }
        (part / f'{env_name}.json').write_text(json.dumps(manifest, indent=2) + '\n')
        return _publish(part, save_dir, env_name, names)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _num_cores():
    if hasattr(os, 'sched_getaffinity'):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _check_numbers(num_episodes, num_workers, seed, num_shards, num_val_episodes):
    for flag, value, least in (
        ('num_episodes', num_episodes, 1),
        ('num_workers', num_workers, 1),
        ('num_shards', num_shards, 1),
        ('num_val_episodes', num_val_episodes, 0),
        ('seed', seed, 0),
    ):
        if value < least:
            raise ValueError(f'--{flag}={value}: must be at least {least}')
    if num_shards > num_episodes:
        raise ValueError(
            f'--num_shards={num_shards}: more than --num_episodes={num_episodes}; '
            'each shard needs an episode'
        )


def _reserve(save_dir, name, num_shards):
    """Makes the folder that holds unfinished files; returns it and the training files' names."""
    taken = [save_dir / f'{name}{end}' for end in ('.npz', '-val.npz', '.json', '')]
    for path in [*taken, *save_dir.glob(f'{name}-[0-9]*.npz')]:
        if path.exists():
            raise FileExistsError(f'{path} exists: delete it or choose another --save_dir')
    part = save_dir / f'{name}.part'
    try:
        part.mkdir(parents=True)
    except FileExistsError as error:
        raise FileExistsError(
            f'{part} exists: another collection is at work, or was killed; if so, delete it'
        ) from error
    if num_shards == 1:
        return part, [f'{name}.npz']
    return part, [f'{name}-{shard:03d}.npz' for shard in range(num_shards)]


def _publish(part, save_dir, name, train_names):
    """Moves finished files to their place, so that training data is never seen half complete."""
    if len(train_names) > 1:
        part.rename(save_dir / name)
        return [save_dir / name / train_name for train_name in train_names]
    for last in (f'{name}-val.npz', f'{name}.json', f'{name}.npz'):
        if (part / last).exists():
            (part / last).rename(save_dir / last)
    return [save_dir / f'{name}.npz']


def _play_all(workers, jobs, bar):
    """Hands out the episodes `jobs`; returns their rows in the order of `jobs`."""
    arrays = {}
    todo = iter(enumerate(jobs))
    busy = set()

    def hand_out(worker):
        if (job := next(todo, None)) is not None:
            worker.send(job)
            busy.add(worker)

    try:
        for worker in workers:
            hand_out(worker)
        while busy:
            for worker in wait(busy):
                index, episode = worker.recv()
                busy.remove(worker)
                hand_out(worker)
                if not arrays:
                    arrays = {
                        key: np.empty((len(jobs), *rows.shape), rows.dtype)
                        for key, rows in episode.items()
                    }
                for key, rows in episode.items():
                    arrays[key][index] = rows
                bar.update(EPISODE_ROWS - 1)
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            'a worker process died; its own message, if any, is above. '
            'Memory may have run out: try fewer --num_workers'
        ) from error
    return {key: rows.reshape(-1, *rows.shape[2:]) for key, rows in arrays.items()}


@contextlib.contextmanager
def _workers(num_workers, cubes):
    """Starts processes that play episodes; yields one connection to each, ends them at exit."""
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # inherited; the matrices here are 6 × 6
    context = multiprocessing.get_context('spawn')
    processes, connections = [], []
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, cubes), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the connection
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(connection, cubes):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    env = make_collection_env(cubes)
    oracle = CubePlanOracle(env=env, **NOISE)
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            index, seed = connection.recv()
            connection.send((index, play_episode(env, oracle, STACKING[cubes], seed)))


def _define_flags():
    flags.DEFINE_string('env_name', None, 'Data set to imitate, such as cube-double-play-v0.')
    flags.DEFINE_integer('num_episodes', None, 'Training episodes of 1000 transitions.')
    flags.DEFINE_integer('num_workers', None, 'Processes; default: one per core.')
    flags.DEFINE_integer('seed', 0, 'Seed of the whole collection.')
    flags.DEFINE_string('save_dir', DEFAULT_DATASET_DIR, 'Where the files go.')
    flags.DEFINE_integer('num_shards', 1, 'Files to spread the training episodes over.')
    flags.DEFINE_integer('num_val_episodes', None, 'Validation episodes; default: a tenth.')
    flags.mark_flags_as_required(['env_name', 'num_episodes'])


def main(_):
    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    names = ('env_name', 'num_episodes', 'save_dir', 'num_workers', 'seed', 'num_shards')
    arguments = {name: flags.FLAGS[name].value for name in (*names, 'num_val_episodes')}
    try:
        for path in collect(**arguments):
            print(path)
    except KeyboardInterrupt:
        sys.exit('Interrupted: unfinished files are removed, nothing was saved.')
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'{error}')


if __name__ == '__main__':
    _define_flags()
    app.run(main)
