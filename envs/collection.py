"""Collection of data with a suite's scripted policy, by several processes.

Every episode is seeded by (seed, split, index), so the same seed gives the same bytes with any
number of workers.
"""

import contextlib
import itertools
import json
import shutil
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from envs import locks
from envs.files import find_files, read_manifest
from envs.npz import DatasetError
from envs.processes import num_cores
from envs.suite import Suite
from envs.workers import Worker, start_fork_server
from utils.errors import UserError

TRAIN, VAL = 0, 1  # in the seeds of episodes
TIME_TO_START = 600.0  # seconds


def collect(
    suite: Suite,
    name: str,
    num_episodes: int,
    save_dir: Path,
    num_workers: int | None = None,
    seed: int = 0,
    num_shards: int = 1,
    num_val_episodes: int | None = None,
) -> list[Path]:
    """Collects a data set into `save_dir`. Files appear there only once all of them are complete.

    Until then they are in the folder <name>.part, which is removed at the end. If this process is
    killed, the next collection of that name removes it.

    While another process collects or downloads data of that name into `save_dir`, this one waits.
    Files already made with the same arguments are returned as they are.

    One shard becomes <name>.npz, <name>-val.npz and the manifest <name>.json (how the files were
    made) in `save_dir`. Several become a folder <name>/ with <name>-000.npz and so on. A suite may
    write another kind of file, see `suite.file_suffix`.

    Args:
        suite: of the data.
        name: of the data to imitate, such as 'cube-double-play-v0'.
        num_episodes: training episodes.
        save_dir: directory of the files, created if missing.
        num_workers: processes; by default one per available core.
        seed: non-negative integer.
        num_shards: number of training files. One shard is held in memory.
        num_val_episodes: episodes of the validation file; by default a tenth of `num_episodes`.

    Returns:
        The training files, in order.

    Raises:
        UserError: there are fewer episodes than shards.
        DatasetError: other files exist already.
        UserError: `save_dir` cannot be written.
        UserError: a worker died or raised, or the suite has no scripted policy.
    """
    if num_shards > num_episodes:
        raise UserError(f'{num_episodes} episodes for {num_shards} shards: each needs an episode')
    num_val = num_episodes // 10 if num_val_episodes is None else num_val_episodes
    suffix = suite.file_suffix
    bounds = np.linspace(0, num_episodes, num_shards + 1).astype(int).tolist()
    plan = {f'{name}-val{suffix}': [(seed, VAL, i) for i in range(num_val)]} if num_val else {}
    for shard, (first, end) in enumerate(itertools.pairwise(bounds)):
        number = f'-{shard:03d}' if num_shards > 1 else ''
        plan[f'{name}{number}{suffix}'] = [(seed, TRAIN, i) for i in range(first, end)]
    made_by: dict[str, Any] = {'source': 'collected', 'name': name, 'seed': seed}
    made_by |= {'episodes': num_episodes, 'val_episodes': num_val, 'shards': num_shards}
    made_by |= suite.collection_details(name)
    if found := _find_same(save_dir, name, suffix, made_by):
        return found
    part = save_dir / f'{name}.part'
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        with locks.hold(save_dir / f'{name}.lock', part), contextlib.ExitStack() as stack:
            if found := _find_same(save_dir, name, suffix, made_by):
                return found  # the other process's
            shutil.rmtree(part, ignore_errors=True)  # from a killed collection
            stack.callback(shutil.rmtree, part, ignore_errors=True)
            part.mkdir()
            workers = _start(suite, name, num_workers or num_cores())
            stack.callback(lambda: [worker.end() for worker in workers])
            total = sum(map(len, plan.values()))
            bar = stack.enter_context(tqdm(desc=name, total=total, unit='episode'))
            for file, seeds in plan.items():
                suite.write_episodes(part / file, name, _play(workers, seeds, bar))
            sizes = {file: (part / file).stat().st_size for file in plan if '-val' not in file}
            manifest = json.dumps(made_by | {'bytes': sizes}, indent=2)
            (part / f'{name}.json').write_text(f'{manifest}\n', 'utf-8')
            if num_shards > 1:
                part.rename(save_dir / name)
            else:
                for file in (f'{name}.json', *plan):  # the training data last
                    (part / file).replace(save_dir / file)
            return find_files(save_dir, name, suffix)
    except OSError as error:
        fix = 'choose a writable directory with enough space'
        raise UserError(f'{save_dir}: collecting failed ({error}); {fix}') from error


def _find_same(save_dir: Path, name: str, suffix: str, made_by: dict[str, Any]) -> list[Path]:
    """Returns the files of the same number of episodes, seed and shards, if there are any.

    Raises:
        DatasetError: there are others.
    """
    paths, val = find_files(save_dir, name, suffix), save_dir / f'{name}-val{suffix}'
    if not paths:  # with a manifest, a collection was killed while it moved its files into place
        if not val.exists() or (save_dir / f'{name}.json').exists():
            return []
        paths, manifest = [val], None
    else:
        manifest = read_manifest(paths, name)
    what = 'not collected (it has no manifest)'
    if manifest:
        wrong = [key for key in ('episodes', 'seed', 'shards') if manifest.get(key) != made_by[key]]
        if not wrong:
            return paths
        what = ', '.join(f'{key}={manifest.get(key)}, not {made_by[key]}' for key in wrong)
        what = f'collected with {what}'
    raise DatasetError(f'{paths[0]} exists, {what}: delete it or choose another directory')


def _start(suite: Suite, name: str, num_workers: int) -> list[Worker]:
    start_fork_server(suite.preload)
    make: Any = partial(suite.make_scripted_policy, name)
    labels = (f'{name}: worker {i + 1} of {num_workers}' for i in range(num_workers))
    workers = [Worker(make, label, TIME_TO_START) for label in labels]
    for worker in workers:
        worker.answer()
    return workers


def _play(workers: list[Worker], seeds: list[tuple[int, ...]], bar: tqdm) -> list[dict[str, Any]]:
    """Returns an episode for each seed, in that order."""
    episodes: list[Any] = [None] * len(seeds)
    left, idle, playing = [*reversed(range(len(seeds)))], [*workers], {}
    while left or playing:
        while left and idle:
            worker, i = idle.pop(), left.pop()
            worker.ask('play', seeds[i])
            playing[worker.pipe] = worker, i
        for pipe in wait(playing):
            worker, i = playing.pop(pipe)
            episodes[i] = worker.answer()
            idle.append(worker)
            bar.update()
    return episodes
