"""Offline data of all suites: found on disk, downloaded or collected, and checked.

Data is in <name>.npz, or in several shards <name>-000.npz, <name>-001.npz and so on.
"""

import functools
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs import layouts
from envs.downloads import hash_file
from envs.layouts import OUTSIDE, to_unit
from envs.npz import REPLACE, Column, DataFile, DatasetError, bad_file, open_npz
from envs.processes import python_path
from utils.errors import UserError

SOURCES = ('auto', 'download', 'collect', 'here')
ON_BAD_SHARD = ('fail', 'skip')
ROOT = Path(__file__).absolute().parents[1]  # of the project

Rows = dict[str, Any]  # see `Dataset.load`


@dataclass(frozen=True)
class DataRequest:
    """A request for data, and how to make it.

    Attributes:
        source: 'auto' uses existing files of any origin, and downloads them if there are none.
            'download' uses or downloads the public files. 'collect' uses or makes a scripted
            collection of exactly `num_episodes` and `seed`. 'here' uses existing files, and raises
            DatasetError if there are none.
        num_episodes: episodes to collect; None: as many as the public data set has.
        seed: of the collection.
        num_workers: processes that collect; None: one per core.

    Raises:
        UserError: the source is unknown, or `num_episodes` is given without collection.
    """

    source: str = 'auto'
    num_episodes: int | None = None
    seed: int = 0
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UserError(f'source={self.source}: must be one of {", ".join(SOURCES)}')
        if self.num_episodes is not None and self.source != 'collect':
            raise UserError(
                f"num_episodes={self.num_episodes}: only for source='collect', not "
                f'source={self.source!r}; existing or downloaded data is used whole'
            )


@dataclass(frozen=True)
class Dataset:
    """Offline data in one or more files ("shards"), read on request.

    Attributes:
        name: such as 'cube-double-play-v0'.
        paths: the shards, in order.
        num_rows: of each shard; 0 for an unusable one.
        provenance: origin of the data, ready for JSON: 'source' is 'downloaded' (with its 'url'),
            'collected' or 'on disk' (existing, of unknown origin). A single file has its 'sha256'.
        read_shard: called by `load` with a path.
        contents: identifies the content of each shard, ready for JSON; by default its SHA-256.
        problems: for each shard the error that makes it unusable, or None. By default all None.
    """

    name: str
    paths: tuple[Path, ...]
    num_rows: tuple[int, ...]
    provenance: dict[str, Any]
    read_shard: Callable[[Path], Rows] = field(repr=False, compare=False)
    contents: tuple[Any, ...] = field(default=(), repr=False)
    problems: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, shard: int) -> Rows:
        """Reads one shard.

        Args:
            shard: 0 to len(self) − 1.

        Returns:
            Dict of arrays with R rows: observations [R, ...] or a dict of such arrays, float32 or
            uint8; actions [R, d_a] float32 in [−1, 1]; rewards [R] float32; masks [R] float32 (0
            where the task is solved); terminals [R] bool (True on the last row of each episode, its
            final state, whose action is meaningless).

        Raises:
            DatasetError: the file is damaged, or has invalid numbers.
        """
        return self.read_shard(self.paths[shard])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the contents of all files, independent of their paths.

        For an .npz file it hashes the zip directory: names, sizes and CRC-32s of the arrays. Any
        other file is read completely.
        """
        contents = self.contents or [hash_file(path) for path in self.paths]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def obtain(
    name: str,
    directory: Path,
    request: DataRequest,
    *,
    num_episodes: int,
    download: Callable[[], str | None],
    num_shards: int = 1,
    suite: str | None = None,
    manifest_keys: Sequence[str] = ('episodes', 'seed'),
    find: Callable[[Path, str], list[Path]] | None = None,
) -> tuple[list[Path], dict[str, Any]]:
    """Finds files in `directory`; downloads or collects them if there are none.

    Args:
        name: of the data.
        directory: of the files.
        request: which data.
        num_episodes: to collect, if not in the request.
        download: downloads a file into `directory` and returns its URL, or None.
        num_shards: number of files to collect.
        suite: of the data, as 'module:attribute'; only needed if it is not registered with `envs`.
        manifest_keys: keys of a collection's manifest that go into the provenance.
        find: finds the files, by default `find_files`.

    Returns:
        The files in order, including those known to be missing, and their provenance (see
        `Dataset`).

    Raises:
        DatasetError: the files found do not match the request.
        UserError: the download or the collection failed.
    """
    if directory.exists() and not directory.is_dir():
        raise DatasetError(f'{directory}: not a directory; name the directory for the data')
    find, num_episodes = find or find_files, request.num_episodes or num_episodes
    paths, made, url = find(directory, name), 'on disk', None
    if not paths and request.source == 'collect':
        arguments = collect_arguments(name, num_episodes, num_shards, suite, directory)
        run_collection(arguments, request.seed, request.num_workers)
        if not (paths := find(directory, name)):
            raise DatasetError(f'{directory}: the collection of {name} left no files there')
    elif not paths and request.source == 'here':
        raise DatasetError(f'{directory}: {name} is not there')
    elif not paths:
        url, made = download(), 'downloaded'
        paths = find(directory, name)

    manifest = read_manifest(paths, name, manifest_keys)
    if request.source == 'collect':
        _check_collection(paths[0], manifest, num_episodes, request.seed)
    elif request.source == 'download' and manifest:
        raise DatasetError(
            f'{paths[0]}: collected here, not downloaded; delete it and its manifest {name}.json, '
            "choose another directory, or use it with source='auto'"
        )
    provenance = {
        'source': 'collected' if manifest else made,
        'directory': str(paths[0].parent),
        'files': [path.name for path in paths],
    }
    if url:
        provenance['url'] = url
    if len(paths) == 1:  # of many files it would take minutes
        provenance['sha256'] = hash_file(paths[0])
    if manifest:
        provenance |= {key: manifest[key] for key in manifest_keys}
        lost = set(manifest['bytes']) - {path.name for path in paths}
        paths = [*paths, *(paths[0].parent / file for file in sorted(lost))]
    return paths, provenance


def find_files(directory: Path, name: str, suffix: str = '.npz') -> list[Path]:
    """The training files of `name` in `directory` or its subdirectory `name`, in order.

    Raises: see `files_in`.
    """
    return files_in(directory, [name], suffix) or files_in(directory / name, [name], suffix)


def files_in(folder: Path, names: Sequence[str], suffix: str = '.npz') -> list[Path]:
    """The training files in a folder: <name><suffix> of the first name, or shards of any, in order.

    A missing shard among others is in the list, too; reading it is an error.
    """
    if (path := folder / f'{names[0]}{suffix}').exists():
        return [path]
    either = '|'.join(map(re.escape, names))
    pattern = re.compile(rf'({either})-([0-9]{{3,4}}){re.escape(suffix)}')
    found = [match for path in folder.glob(f'*{suffix}') if (match := pattern.fullmatch(path.name))]
    shards = {int(match[2]): folder / match[0] for match in found}
    prefix = found[0][1] if found else ''
    return [
        shards.get(number, folder / f'{prefix}-{number:03d}{suffix}')
        for number in range(max(shards, default=-1) + 1)
    ]


def read_manifest(
    paths: Sequence[Path], name: str, keys: Collection[str] = ('episodes', 'seed')
) -> dict[str, Any] | None:
    """Returns the manifest of the files `paths` by `envs.collect`, None if it did not make them.

    Args:
        paths: files in one folder; missing ones are not compared.
        name: of the data.
        keys: required keys, besides the files' sizes in 'bytes'.

    Raises:
        DatasetError: the manifest is unreadable or describes other files.
    """
    path = paths[0].parent / f'{name}.json'
    fix = 'delete the manifest if you replaced the collected files'
    try:
        manifest = json.loads(path.read_text('utf-8'))
        sizes = {**manifest['bytes'], **{key: manifest[key] for key in keys}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise bad_file(path, f'not the manifest of a collection ({error!r})', fix) from error
    found = {p.name: p.stat().st_size for p in paths if p.exists()}
    if wrong := sorted(file for file, size in found.items() if sizes.get(file) != size):
        raise DatasetError(
            f'{path}: does not match the files (added or of another size: {", ".join(wrong)}); '
            f'{fix}, or delete all of them and collect again'
        )
    return manifest


def _check_collection(
    path: Path, manifest: dict[str, Any] | None, num_episodes: int, seed: int
) -> None:
    fix = 'delete it, choose another directory, or use the existing data'
    if manifest is None:
        raise DatasetError(
            f"{path}: not collected (it has no manifest), but source='collect'; "
            f"{fix} with source='auto'"
        )
    for key, asked in (('episodes', num_episodes), ('seed', seed)):
        if manifest[key] != asked:
            raise DatasetError(f'{path}: collected with {key}={manifest[key]}, not {asked}; {fix}')


def collect_arguments(
    name: str,
    num_episodes: int,
    num_shards: int = 1,
    suite: str | None = None,
    save_dir: Path | None = None,
) -> list[str]:
    """Returns Python's arguments to collect data like `name`.

    Args:
        name: of the data.
        num_episodes: training episodes.
        num_shards: number of files.
        suite: of the data, as 'module:attribute'; only needed if it is not registered with `envs`.
        save_dir: folder of the files; by default the suite's directory.
    """
    arguments = ['-m', 'envs.collect', f'--env_name={name}', f'--num_episodes={num_episodes}']
    if num_shards > 1:
        arguments.append(f'--num_shards={num_shards}')
    if suite is not None:
        arguments.append(f'--suite={suite}')
    if save_dir is not None:
        arguments.append(f'--save_dir={save_dir.absolute()}')
    return arguments


def as_command(arguments: Sequence[str]) -> str:
    """Returns the command that runs Python with these arguments, for a shell in any directory."""
    if Path.cwd() == ROOT:
        return shlex.join([os.path.relpath(sys.executable), *arguments])
    return f'cd {shlex.quote(str(ROOT))} && {shlex.join([sys.executable, *arguments])}'


def run_collection(arguments: Sequence[str], seed: int, num_workers: int | None) -> None:
    """Collects in another process, with `collect_arguments`.

    That process stops and removes its files when this one leaves the function or dies. If another
    process is collecting the same data, it waits for that instead.

    Raises:
        UserError: it failed.
    """
    command = [sys.executable, *arguments, f'--seed={seed}', '--end_with_stdin']
    if num_workers is not None:
        command.append(f'--num_workers={num_workers}')
    environment = {**os.environ, 'PYTHONPATH': python_path()}
    pipe = subprocess.PIPE  # closes with this block or this process
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=pipe, start_new_session=True
    ) as process:
        status = process.wait()
    if status != 0:
        raise UserError(f'`{shlex.join(command)}` failed (status {status}); see above')


def open_shards(
    name: str,
    paths: Sequence[Path],
    provenance: dict[str, Any],
    check: Callable[[DataFile], int],
    read: Callable[[DataFile], Rows],
    fix: str = REPLACE,
) -> Dataset:
    """Checks .npz files, and returns their data.

    An unusable file becomes a problem of its shard; `envs.make_dataset` decides whether that is an
    error.

    Args:
        name, paths, provenance: see `Dataset`.
        check: checks a file; returns its number of rows.
        read: reads the rows for `Dataset.load`.
        fix: advice for a bad file, for the error.
    """
    num_rows: list[int] = []
    contents: list[Any] = []
    problems: list[str | None] = []
    for path in paths:
        rows, content, problem = 0, None, None
        try:
            with open_npz(path, fix) as file:
                rows, content = check(file), file.content
        except DatasetError as error:
            problem = str(error)
        num_rows.append(rows)
        contents.append(content)
        problems.append(problem)

    def read_shard(path: Path) -> Rows:
        with open_npz(path, fix) as file:
            return read(file)

    return Dataset(
        name,
        tuple(paths),
        tuple(num_rows),
        provenance,
        read_shard,
        tuple(contents),
        tuple(problems),
    )


def npz_dataset(
    name: str,
    paths: Sequence[Path],
    env: gymnasium.Env,
    provenance: dict[str, Any] | None = None,
) -> Dataset:
    """Returns the data of files that contain rewards, for your own suites.

    Each .npz holds, in either layout of `envs.layouts`,

    - observations [R, ...], or observations/<name> [R, ...] for each entry of a Dict;
    - actions [R, d_a] in the environment's own units, which are mapped from its bounds to [−1, 1];
    - rewards [R] of the row's action;
    - terminals [R], True on the last row of each episode: its final state, whose action and reward
      are ignored;
    - optionally masks [R], 0 where the row's action ended the task, else 1. Without masks all are
      1: every episode counts as truncated, and its last state still has a value.

    With next_observations [R, ...] each row is a transition instead. An episode ends where
    terminals, terminations or dones (the task ended), or timeouts or truncations (truncated) say
    so, and where the next row starts in another state. Missing masks are 0 where the task ended; if
    that flag marks every truncation too, only where the episode was not truncated. Without
    next_observations but with timeouts or truncations, rows are transitions as in D4RL, and the
    last one of a truncated episode is dropped.

    Args:
        name: of the data.
        paths: of the files, in order.
        env: from `suite.make_env`, with the environment's own action bounds.
        provenance: see `Dataset`; by default 'on disk'.

    Raises:
        DatasetError: `paths` is empty. When loaded: a file is damaged, does not fit the
            environment, or has an action outside the bounds by more than 1e-3 of their range.
    """
    if not paths:
        raise DatasetError(f'{name}: no files were given')
    space = env.action_space
    if not isinstance(space, Box):
        raise DatasetError(f'{name}: actions are {space}; data needs vectors, a Box(low, high)')
    columns = _columns(env.observation_space)
    columns |= {'actions': Column(space.shape), 'rewards': Column(())}
    label = type(env.unwrapped).__name__ if env.spec is None else env.spec.id
    if provenance is None:
        provenance = {
            'source': 'on disk',
            'directory': str(paths[0].parent),
            'files': [path.name for path in paths],
        }
    check = functools.partial(layouts.check, columns=columns, env_name=label)
    read = functools.partial(_read_own, columns=columns, low=space.low, high=space.high)
    return open_shards(name, paths, provenance, check, read, 'correct what wrote it')


def _columns(space: gymnasium.Space) -> dict[str, Column]:
    """Returns the arrays of observations: one, or one for each entry of a Dict."""
    parts = {'observations': space}
    if isinstance(space, gymnasium.spaces.Dict):
        parts = {f'observations/{name}': part for name, part in space.spaces.items()}
    return {
        key: Column(part.shape or (), np.uint8 if part.dtype == np.uint8 else np.float32)
        for key, part in parts.items()
    }


def _read_own(
    file: DataFile, columns: dict[str, Column], low: np.ndarray, high: np.ndarray
) -> Rows:
    arrays = layouts.read(file, columns)
    actions, final = arrays['actions'], arrays['terminals']
    actions[final] = (low + high) / 2
    slack = OUTSIDE * (high - low)
    outside = (actions < low - slack) | (actions > high + slack)
    if outside.any():
        row, part = np.argwhere(outside)[0]
        raise file.error(
            f'actions[{row}, {part}] is {actions[row, part]:g}, outside of the bounds '
            f'{low[part]:g} to {high[part]:g}, as are {outside.any(axis=1).mean():.0%} of all'
        )
    arrays['actions'] = to_unit(actions, low, high)
    return layouts.nest(arrays)
