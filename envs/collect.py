"""Collects data with a suite's scripted policy.

    python -m envs.collect --env_name=cube-double-play-v0 --num_episodes=1000 --num_workers=2

Every episode is seeded by (seed, split, index), so the same seed gives the same bytes with any
number of workers.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from gymnasium.vector.utils import CloudpickleWrapper
from tqdm import tqdm

from envs import locks
from envs.datasets import find_files, read_manifest
from envs.processes import (
    SIGNALS,
    environment_variables,
    glfw_found,
    obey_parent_alone,
    signals_held_back,
    without_main,
)
from envs.registry import find_collection
from envs.suite import Script, Suite
from utils.errors import UserError
from utils.host import settle

SPLITS = {'train': 0, 'val': 1}
TIME_TO_CLEAN_UP = 60.0  # seconds

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

    Until then they are in the folder <name>.part, which is removed at the end. If this process is
    killed, the next collection of that name removes it.

    While another process collects or downloads data of that name into `save_dir`, this one waits.
    Files already made with the same arguments are returned as they are.

    One shard becomes <name>.npz, <name>-val.npz and the manifest <name>.json (how the files were
    made) in `save_dir`. Several become a folder <name>/ with <name>-000.npz and so on. A suite may
    write another kind of file, see `suite.file_suffix`.

    Args:
        env_name: data set to imitate, such as 'cube-double-play-v0'.
        num_episodes: training episodes.
        save_dir: directory of the files, created if missing. By default the suite's.
        num_workers: processes; by default one per available core.
        seed: non-negative integer.
        num_shards: number of training files. One shard is held in memory.
        num_val_episodes: episodes of the validation file; by default a tenth of `num_episodes`.
        suite: as for `envs.find_task`.

    Returns:
        The training files, sorted.

    Raises:
        UserError: an argument is invalid.
        UserError: other files exist already, or `save_dir` cannot be written.
        UserError: a worker died, or the suite's script produced no episodes.
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
        raise UserError(f'--save_dir is missing: suite {suite.name} has no default directory')

    save_dir = Path(save_dir).expanduser()
    suffix = suite.file_suffix
    names = [f'{env_name}{suffix}']
    if num_shards > 1:
        names = [f'{env_name}-{i:03d}{suffix}' for i in range(num_shards)]
    bounds = np.linspace(0, num_episodes, num_shards + 1).astype(int).tolist()
    val_name = f'{env_name}-val{suffix}'
    plan = [(val_name, 'val', range(num_val_episodes))] if num_val_episodes else []
    for name, span in zip(names, itertools.pairwise(bounds), strict=True):
        plan.append((name, 'train', range(*span)))
    made_by = {
        'source': 'collected',
        'name': env_name,
        'episodes': num_episodes,
        'val_episodes': num_val_episodes,
        'shards': num_shards,
        'seed': seed,
        **suite.collection_details(env_name),
    }
    with _reserve(save_dir, env_name) as part:
        if found := _find_same(save_dir, env_name, suffix, made_by):
            return found
        _refuse_to_overwrite(save_dir, env_name, suffix)
        folder = part / env_name if num_shards > 1 else part
        with (
            _workers(num_workers, partial(suite.make_script, env_name)) as workers,
            _Progress(env_name, num_episodes + num_val_episodes) as progress,
        ):
            for name, split, episodes in plan:
                played = _play_all(workers, [(seed, SPLITS[split], i) for i in episodes], progress)
                with _writing(save_dir):
                    folder.mkdir(exist_ok=True)
                    suite.write_episodes(folder / name, env_name, played)
        with _writing(save_dir):
            sizes = {name: (folder / name).stat().st_size for name in names}
            manifest = json.dumps(made_by | {'bytes': sizes}, indent=2)
            (folder / f'{env_name}.json').write_text(f'{manifest}\n', 'utf-8')
            return _publish(part, save_dir, env_name, names, suffix)


def _num_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):  # not on macOS
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
def _writing(save_dir: Path) -> Iterator[None]:
    """Turns OSError into a UserError that names the directory."""
    try:
        yield
    except OSError as error:
        at = f' at {error.filename}' if error.filename else ''
        raise UserError(
            f'--save_dir={save_dir}: cannot be written ({error.strerror or error}{at}); choose a '
            'writable directory with enough space'
        ) from error


@contextlib.contextmanager
def _reserve(save_dir: Path, name: str) -> Iterator[Path]:
    """Locks the name in `save_dir`, and makes a temporary folder for unfinished files.

    Waits while another process collects or downloads data of that name.
    """
    part = save_dir / f'{name}.part'
    with contextlib.ExitStack() as stack:
        with _writing(save_dir):
            save_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.hold(save_dir / f'{name}.lock', part))
            shutil.rmtree(part, ignore_errors=True)  # from a killed collection
            stack.callback(shutil.rmtree, part, ignore_errors=True)
            part.mkdir()
        yield part


def _find_same(save_dir: Path, name: str, suffix: str, made_by: dict[str, Any]) -> list[Path]:
    """Returns the files made with the same arguments, if there are any."""
    paths = find_files(save_dir, name, suffix)
    if not paths or (manifest := read_manifest(paths, name)) is None:
        return []
    sizes = manifest.pop('bytes')
    is_whole = sizes == {path.name: path.stat().st_size for path in paths if path.is_file()}
    return paths if is_whole and manifest == json.loads(json.dumps(made_by)) else []


def _refuse_to_overwrite(save_dir: Path, name: str, suffix: str) -> None:
    taken = [save_dir / f'{name}{suffix}', save_dir / name]
    taken += save_dir.glob(f'{name}-[0-9]*{suffix}')
    manifest = save_dir / f'{name}.json'
    if not manifest.exists():  # if it exists, a collection was killed in `_publish`
        taken.append(save_dir / f'{name}-val{suffix}')
    for path in taken:
        if path.exists():
            raise UserError(f'{path} exists: delete it or choose another --save_dir')


def _publish(
    part: Path, save_dir: Path, name: str, train_names: Sequence[str], suffix: str
) -> list[Path]:
    """Moves finished files into place, the training data last."""
    if len(train_names) > 1:
        (part / name).rename(save_dir / name)
        return [save_dir / name / train_name for train_name in train_names]
    for file in (f'{name}.json', f'{name}-val{suffix}', f'{name}{suffix}'):
        if (part / file).exists():
            (part / file).replace(save_dir / file)
    return [save_dir / f'{name}{suffix}']


class _Progress:
    """A bar that counts transitions; their total is estimated from the episodes so far."""

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
    """Collects the episodes `jobs` with the workers; returns them in that order."""
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
                if isinstance(episode, UserError):
                    raise episode
                busy.remove(ready)
                hand_out(ready)
                episodes[index] = episode
                progress.add(len(episode['terminals']) - 1)
    except (EOFError, ConnectionError) as error:
        raise UserError(
            'a worker process died; see its message above, if any. It may have run out of memory: '
            'try fewer --num_workers'
        ) from error
    return episodes


@contextlib.contextmanager
def _workers(num_workers: int, make_script: Callable[[], Script]) -> Iterator[list[Connection]]:
    """Starts the worker processes; yields a connection to each, and ends them at exit."""
    threads = os.environ.get('OMP_NUM_THREADS', '1')  # matrices are tiny, 6 × 6
    variables = environment_variables(OMP_NUM_THREADS=threads, **glfw_found())
    context = multiprocessing.get_context('spawn')
    processes, connections = [], []
    try:
        with signals_held_back(), without_main(), variables:
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                arguments = (theirs, CloudpickleWrapper(make_script))  # type: ignore[type-var]
                process = context.Process(target=_work, args=arguments, daemon=True)
                try:
                    process.start()
                except OSError as error:
                    raise UserError(
                        f'--num_workers={num_workers}: only {len(processes)} could be started '
                        f'({error.strerror}); try fewer'
                    ) from error
                theirs.close()  # so the connection ends with the process
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
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        try:
            script = make_script()
            while True:
                index, seed = connection.recv()
                connection.send((index, _check(script.play(seed))))
        except UserError as error:
            connection.send((-1, error))


def _check(episode: Episode) -> Episode:
    """Raises UserError if a script's rows are not an episode."""
    lengths = {key: len(rows) for key, rows in episode.items() if rows.ndim}
    if 'terminals' not in lengths or len(set(lengths.values())) > 1:
        raise UserError(f'a script returned arrays of {lengths} rows; all must match terminals')
    ends = np.flatnonzero(episode['terminals']).tolist()
    if ends != [lengths['terminals'] - 1]:
        raise UserError(
            f'a script returned an episode of {lengths["terminals"]} rows with terminals True in '
            f'rows {ends}; only the last row must be terminal'
        )
    return episode


def _define_flags() -> None:
    flags.DEFINE_string('env_name', None, 'Data set to imitate, such as cube-double-play-v0.')
    flags.DEFINE_string('suite', None, 'Your own suite, as module:attribute.')
    flags.DEFINE_integer('num_episodes', None, 'Training episodes (cubes: of 1000 transitions).')
    flags.DEFINE_integer('num_workers', None, 'Processes; default: one per core.')
    flags.DEFINE_integer('seed', 0, 'Seed of the whole collection.')
    flags.DEFINE_string('save_dir', None, "Folder for the files; default: the suite's directory.")
    flags.DEFINE_integer('num_shards', 1, 'Number of training files.')
    flags.DEFINE_integer('num_val_episodes', None, 'Validation episodes; default: a tenth.')
    flags.DEFINE_bool('end_with_stdin', False, 'Stop when standard input closes, because the '
                      'parent program has died; ignore Ctrl-C.')  # fmt: skip
    flags.mark_flags_as_required(['env_name', 'num_episodes'])


def _stop_on_signals(end_with_stdin: bool) -> None:
    """Makes the first signal raise KeyboardInterrupt; later ones do not disturb the clean-up."""

    def stop(*_):
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def wait_for_end_of_stdin():
        with contextlib.suppress(OSError):  # no standard input
            while os.read(0, 1):
                pass
        signal.pthread_kill(main_thread, signal.SIGTERM)
        time.sleep(TIME_TO_CLEAN_UP)
        os._exit(1)  # an exception can get lost, for example in a destructor

    main_thread = threading.get_ident()
    for number in SIGNALS:
        ignored = end_with_stdin and number != signal.SIGTERM
        signal.signal(number, signal.SIG_IGN if ignored else stop)
    if end_with_stdin:
        threading.Thread(target=wait_for_end_of_stdin, daemon=True).start()


def main(argv: Sequence[str]) -> None:
    """The program."""
    settle()
    if len(argv) > 1:
        sys.exit(f'{argv[1]!r}: not a flag; flags start with --')
    names = ['env_name', 'num_episodes', 'save_dir', 'num_workers', 'seed', 'num_shards']
    names += ['num_val_episodes', 'suite']
    arguments: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    try:
        _stop_on_signals(flags.FLAGS.end_with_stdin)
        for path in collect(**arguments):
            print(path)
    except KeyboardInterrupt:
        sys.exit('Interrupted: nothing was saved, unfinished files are removed.')
    except (UserError, OSError) as error:
        sys.exit(f'{error}')


if __name__ == '__main__':
    # Workers do not import the main program, so their code must be in a named module.
    from envs.collect import main as imported_main

    _define_flags()
    try:
        app.run(imported_main, flags_parser=flags.FLAGS)
    except flags.Error as problem:
        sys.exit(' '.join(str(problem).split()))
