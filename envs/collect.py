"""Collects data with the scripted policy of a suite.

    python -m envs.collect --env_name=cube-double-play-v0 --num_episodes=1000 --num_workers=2

Every episode is seeded by (seed, split, index), so the same seed gives the same bytes on any number
of workers.
"""

import contextlib
import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from gymnasium.vector.utils import CloudpickleWrapper
from tqdm import tqdm

from envs.processes import SIGNALS, obey_parent_alone, without_main
from envs.registry import find_collection
from envs.suite import Script, Suite
from utils.errors import UserError

SPLITS = {'train': 0, 'val': 1}

Seed = tuple[int, ...]
Episode = dict[str, np.ndarray]


def collect(
    env_name: str,
    num_episodes: int,
    save_dir: str | Path | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    num_shards: int = 1,
    num_val_episodes: int | None = None,
    suite: str | Suite | None = None,
) -> list[Path]:
    """Collects a data set into `save_dir`. Files appear there only once all of them are complete.

    Until then they are in <name>.part, which is removed at the end. If this process is killed, that
    folder is left, and the next collection of that name removes it.

    One shard becomes <name>.npz, <name>-val.npz and <name>.json (the manifest: what made the
    files) in `save_dir`. Several become a folder <name>/ with <name>-000.npz and so on.

    Args:
        env_name: data set to imitate, such as 'cube-double-play-v0'.
        num_episodes: training episodes.
        save_dir: directory for the files; made if need be. By default the suite's.
        num_workers: processes; by default one per core this process may use.
        seed: non-negative integer.
        num_shards: files to spread the training episodes over. One shard is held in memory.
        num_val_episodes: episodes of the validation file; by default a tenth of `num_episodes`.
        suite: as for `envs.find_task`.

    Returns:
        The training files, sorted.

    Raises:
        UserError: an argument makes no sense.
        UserError: there are files already, or another process is collecting them.
        UserError: a worker died.
    """
    suite = find_collection(env_name, suite)
    if num_workers is None:
        num_workers = _num_cores()
    if num_val_episodes is None:
        num_val_episodes = num_episodes // 10
    _check_numbers(num_episodes, num_workers, seed, num_shards, num_val_episodes)
    if save_dir is None:
        save_dir = suite.dataset_dir
    if save_dir is None:
        raise UserError(f'--save_dir: say where; suite {suite.name} has no directory of its own')

    save_dir = Path(save_dir).expanduser()
    with _reserve(save_dir, env_name) as part:
        folder, names = part, [f'{env_name}.npz']
        if num_shards > 1:
            folder, names = part / env_name, [f'{env_name}-{i:03d}.npz' for i in range(num_shards)]
            folder.mkdir()
        bounds = np.linspace(0, num_episodes, num_shards + 1).astype(int).tolist()
        plan = [(f'{env_name}-val.npz', 'val', range(num_val_episodes))] if num_val_episodes else []
        for name, span in zip(names, itertools.pairwise(bounds), strict=True):
            plan.append((name, 'train', range(*span)))
        with (
            _workers(num_workers, partial(suite.make_script, env_name)) as workers,
            _Progress(env_name, num_episodes + num_val_episodes) as progress,
        ):
            for name, split, episodes in plan:
                jobs = [(seed, SPLITS[split], episode) for episode in episodes]
                _write(folder / name, _play_all(workers, jobs, progress))
        manifest = {
            'source': 'collected',
            'name': env_name,
            'episodes': num_episodes,
            'val_episodes': num_val_episodes,
            'shards': num_shards,
            'seed': seed,
            'bytes': {name: (folder / name).stat().st_size for name in names},
            **suite.collection_details(env_name),
        }
        (folder / f'{env_name}.json').write_text(json.dumps(manifest, indent=2) + '\n')
        return _publish(part, save_dir, env_name, names)


def _num_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_numbers(
    num_episodes: int, num_workers: int, seed: int, num_shards: int, num_val_episodes: int
) -> None:
    for flag, value, least in (
        ('num_episodes', num_episodes, 1),
        ('num_workers', num_workers, 1),
        ('num_shards', num_shards, 1),
        ('num_val_episodes', num_val_episodes, 0),
        ('seed', seed, 0),
    ):
        if value < least:
            raise UserError(f'--{flag}={value}: must be at least {least}')
    if num_shards > num_episodes:
        raise UserError(
            f'--num_shards={num_shards}: more than --num_episodes={num_episodes}; '
            'each shard needs an episode'
        )


@contextlib.contextmanager
def _reserve(save_dir: Path, name: str) -> Iterator[Path]:
    """Makes an empty folder for unfinished files, holds it, and removes it at exit.

    A lock on a file in it says that its owner lives. A folder that nobody holds was left by a
    collection that was killed.
    """
    part = save_dir / f'{name}.part'
    is_left_over = part.exists()
    if not is_left_over:
        _refuse_to_overwrite(save_dir, name)
    part.mkdir(parents=True, exist_ok=True)
    with (part / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f'{part} exists: another collection is at work; wait for it or choose another '
                '--save_dir'
            ) from error
        try:
            if is_left_over:
                _clear(part, save_dir, name)
                _refuse_to_overwrite(save_dir, name)
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _refuse_to_overwrite(save_dir: Path, name: str) -> None:
    taken = [save_dir / f'{name}{end}' for end in ('.npz', '-val.npz', '.json', '')]
    for path in [*taken, *save_dir.glob(f'{name}-[0-9]*.npz')]:
        if path.exists():
            raise UserError(f'{path} exists: delete it or choose another --save_dir')


def _clear(part: Path, save_dir: Path, name: str) -> None:
    """Removes what a killed collection left, also where it was killed while it published."""
    if (part / f'{name}.npz').exists() and not (save_dir / f'{name}.npz').exists():
        for earlier in (f'{name}-val.npz', f'{name}.json'):
            if not (part / earlier).exists():  # moved by `_publish`, which moves the data last
                (save_dir / earlier).unlink(missing_ok=True)
    for path in part.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != '.lock':
            path.unlink()


def _publish(part: Path, save_dir: Path, name: str, train_names: Sequence[str]) -> list[Path]:
    """Moves finished files to their place, so that training data is never seen half complete."""
    if len(train_names) > 1:
        (part / name).rename(save_dir / name)
        return [save_dir / name / train_name for train_name in train_names]
    for last in (f'{name}-val.npz', f'{name}.json', f'{name}.npz'):
        if (part / last).exists():
            (part / last).rename(save_dir / last)
    return [save_dir / f'{name}.npz']


class _Progress:
    """A bar that counts transitions. How many there will be follows from the episodes so far."""

    def __init__(self, name: str, num_episodes: int):
        self._bar = tqdm(desc=name, unit=' transitions', unit_scale=True)
        self._num_episodes, self._played = num_episodes, 0

    def __enter__(self) -> '_Progress':
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def add(self, num_transitions: int) -> None:
        """Counts one more episode."""
        self._played += 1
        transitions = self._bar.n + num_transitions
        self._bar.total = round(transitions / self._played * self._num_episodes)
        self._bar.update(num_transitions)


def _play_all(
    workers: Sequence[Connection], jobs: Sequence[Seed], progress: _Progress
) -> list[Episode]:
    """Hands out the episodes `jobs`; returns them in that order."""
    episodes: list[Episode] = [{} for _ in jobs]
    todo = iter(enumerate(jobs))
    busy: set[Any] = set()

    def hand_out(worker: Connection) -> None:
        if (job := next(todo, None)) is not None:
            worker.send(job)
            busy.add(worker)

    try:
        for worker in workers:
            hand_out(worker)
        while busy:
            ready: Any
            for ready in wait(busy):
                index, episode = ready.recv()
                busy.remove(ready)
                hand_out(ready)
                episodes[index] = episode
                progress.add(len(episode['terminals']) - 1)
    except (EOFError, ConnectionError) as error:
        raise UserError(
            'a worker process died; its own message, if any, is above. '
            'Memory may have run out: try fewer --num_workers'
        ) from error
    return episodes


def _write(path: Path, episodes: list[Episode]) -> None:
    """Writes the rows of all `episodes` as `np.savez` would, and empties them.

    One array at a time is put together, so that memory holds little more than the episodes.
    """
    with zipfile.ZipFile(path, 'w', allowZip64=True) as archive:
        for key in list(episodes[0]):
            rows = np.concatenate([episode.pop(key) for episode in episodes])
            with archive.open(f'{key}.npy', 'w', force_zip64=True) as file:
                np.lib.format.write_array(file, rows, allow_pickle=False)


@contextlib.contextmanager
def _workers(num_workers: int, make_script: Callable[[], Script]) -> Iterator[list[Connection]]:
    """Starts processes that play episodes; yields one connection to each, ends them at exit."""
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # inherited; the matrices here are 6 × 6
    context = multiprocessing.get_context('spawn')
    processes, connections = [], []
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            arguments = (theirs, CloudpickleWrapper(make_script))  # type: ignore[type-var]
            process = context.Process(target=_work, args=arguments, daemon=True)
            with without_main():
                process.start()
            theirs.close()  # so that the end of the process is the end of the connection
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _work(connection: Connection, make_script: Callable[[], Script]) -> None:
    obey_parent_alone()
    script = make_script()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            index, seed = connection.recv()
            connection.send((index, _check(script.play(seed))))


def _check(episode: Episode) -> Episode:
    """Raises UserError if a script's rows do not make an episode."""
    lengths = {key: len(rows) for key, rows in episode.items()}
    if 'terminals' not in lengths or len(set(lengths.values())) > 1:
        raise UserError(f'a script played arrays of {lengths} rows; all need as many as terminals')
    ends = np.flatnonzero(episode['terminals']).tolist()
    if ends != [lengths['terminals'] - 1]:
        raise UserError(
            f'a script played an episode of {lengths["terminals"]} rows with terminals True in '
            f'rows {ends}; only its last row is terminal'
        )
    return episode


def _define_flags() -> None:
    flags.DEFINE_string('env_name', None, 'Data set to imitate, such as cube-double-play-v0.')
    flags.DEFINE_string('suite', None, 'Suite of your own that it belongs to, as module:attribute.')
    flags.DEFINE_integer('num_episodes', None, 'Training episodes (of 1000 transitions: cubes).')
    flags.DEFINE_integer('num_workers', None, 'Processes; default: one per core.')
    flags.DEFINE_integer('seed', 0, 'Seed of the whole collection.')
    flags.DEFINE_string('save_dir', None, "Where the files go; default: the suite's directory.")
    flags.DEFINE_integer('num_shards', 1, 'Files to spread the training episodes over.')
    flags.DEFINE_integer('num_val_episodes', None, 'Validation episodes; default: a tenth.')
    flags.DEFINE_bool('end_with_stdin', False, 'Stop when standard input ends, as it does when '
                      'the program that started this one is gone; ignore Ctrl-C.')  # fmt: skip
    flags.mark_flags_as_required(['env_name', 'num_episodes'])


def _stop_on_signals(end_with_stdin: bool) -> None:
    """Has the first signal raise KeyboardInterrupt, and no other disturb what cleans up then."""

    def stop(*_):
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def wait_for_end_of_stdin():
        while os.read(sys.stdin.fileno(), 1):
            pass
        signal.pthread_kill(main_thread, signal.SIGTERM)

    main_thread = threading.get_ident()
    for number in SIGNALS:
        ignored = end_with_stdin and number != signal.SIGTERM
        signal.signal(number, signal.SIG_IGN if ignored else stop)
    if end_with_stdin:
        threading.Thread(target=wait_for_end_of_stdin, daemon=True).start()


def main(_) -> None:
    """The program."""
    _stop_on_signals(flags.FLAGS.end_with_stdin)
    names = ['env_name', 'num_episodes', 'save_dir', 'num_workers', 'seed', 'num_shards']
    names += ['num_val_episodes', 'suite']
    arguments: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    try:
        for path in collect(**arguments):
            print(path)
    except KeyboardInterrupt:
        sys.exit('Interrupted: unfinished files are removed, nothing was saved.')
    except (UserError, OSError) as error:
        sys.exit(f'{error}')


if __name__ == '__main__':
    # Workers do not import the main program, so what they run must be in a module of a name.
    from envs.collect import main as imported_main

    _define_flags()
    app.run(imported_main)
