"""Offline data of all suites: found on disk, downloaded or collected, and checked.

Data is in <name>.npz, or in several shards <name>-000.npz, <name>-001.npz and so on.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs import layouts
from envs.collection import collect
from envs.downloads import hash_file
from envs.files import find_files, read_manifest
from envs.layouts import OUTSIDE, to_unit
from envs.npz import REPLACE, Column, DataFile, DatasetError, open_npz
from envs.suite import Suite
from utils.errors import UserError

SOURCES = ('auto', 'download', 'collect', 'here')

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
            only = f"only for source='collect', not {self.source!r}; other data is used whole"
            raise UserError(f'num_episodes={self.num_episodes}: {only}')


@dataclass(frozen=True)
class Dataset:
    """Offline data in one or more files ("shards"), read on request.

    Attributes:
        name: such as 'cube-double-play-v0'.
        paths: the shards, in order.
        num_rows: of each shard.
        provenance: origin of the data, ready for JSON: 'source' is 'downloaded' (with its 'url'),
            'collected' (with the arguments) or 'on disk' (existing, of unknown origin). A single
            file has its 'sha256'.
        read_shard: called by `load` with a path.
        contents: identifies the content of each shard, ready for JSON; by default its SHA-256.
    """

    name: str
    paths: tuple[Path, ...]
    num_rows: tuple[int, ...]
    provenance: dict[str, Any]
    read_shard: Callable[[Path], Rows] = field(repr=False, compare=False)
    contents: tuple[Any, ...] = field(default=(), repr=False)

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
    suite: Suite,
    name: str,
    directory: Path,
    request: DataRequest,
    download: Callable[[], str | None],
    num_episodes: int,
    num_shards: int = 1,
    find: Callable[[Path, str], list[Path]] = find_files,
) -> tuple[list[Path], dict[str, Any]]:
    """Finds files in `directory`; downloads or collects them if there are none.

    Args:
        suite: of the data.
        name: of the data.
        directory: of the files.
        request: which data.
        download: downloads a file into `directory` and returns its URL, or None.
        num_episodes: to collect, if not in the request.
        num_shards: number of files to collect.
        find: finds the files.

    Returns:
        The files in order, including those known to be missing, and their provenance (see
        `Dataset`).

    Raises:
        DatasetError: the files found do not match the request.
        UserError: the download or the collection failed.
    """
    if directory.exists() and not directory.is_dir():
        raise DatasetError(f'{directory}: not a directory; name the directory for the data')
    made, url = 'on disk', None
    if request.source == 'collect':
        num_episodes = request.num_episodes or num_episodes
        workers, seed = request.num_workers, request.seed
        paths = collect(suite, name, num_episodes, directory, workers, seed, num_shards)
    elif not (paths := find(directory, name)):
        if request.source == 'here':
            raise DatasetError(f'{directory}: {name} is not there')
        url, made = download(), 'downloaded'
        paths = find(directory, name)
    manifest = read_manifest(paths, name)
    if request.source == 'download' and manifest:
        fix = "delete it and its manifest, choose another directory, or use it with source='auto'"
        raise DatasetError(f'{paths[0]}: collected here, not downloaded; {fix}')
    made = 'collected' if manifest else made
    provenance = describe_files(paths, made) | ({'url': url} if url else {})
    if len(paths) == 1 and request.source != 'here':  # of many files it would take minutes
        provenance['sha256'] = hash_file(paths[0])
    if manifest:
        sizes = manifest.pop('bytes')
        provenance |= manifest
        lost = set(sizes) - {path.name for path in paths}
        paths = [*paths, *(paths[0].parent / file for file in sorted(lost))]
    return paths, provenance


def describe_files(paths: Sequence[Path], source: str = 'on disk') -> dict[str, Any]:
    """Returns the provenance of files in one folder, see `Dataset`."""
    files = [path.name for path in paths]
    return {'source': source, 'directory': str(paths[0].parent), 'files': files}


def open_shards(
    name: str,
    paths: Sequence[Path],
    provenance: dict[str, Any],
    check: Callable[[DataFile], int],
    read: Callable[[DataFile], Rows],
    fix: str = REPLACE,
) -> Dataset:
    """Checks .npz files, and returns their data.

    Args:
        name, paths, provenance: see `Dataset`.
        check: checks a file; returns its number of rows.
        read: reads the rows for `Dataset.load`.
        fix: advice for a bad file, for the error.

    Raises:
        DatasetError: a file is unusable.
    """
    found = []
    for path in paths:
        with open_npz(path, fix) as file:
            found.append((check(file), file.content))
    num_rows, contents = zip(*found, strict=True)

    def read_shard(path: Path) -> Rows:
        with open_npz(path, fix) as file:
            return read(file)

    return Dataset(name, tuple(paths), num_rows, provenance, read_shard, contents)


def npz_dataset(
    name: str, paths: Sequence[Path], env: gymnasium.Env, provenance: dict[str, Any] | None = None
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
    check = functools.partial(layouts.check, columns=columns, env_name=label)
    read = functools.partial(_read_own, columns=columns, low=space.low, high=space.high)
    provenance = provenance or describe_files(paths)
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
        bounds = f'{low[part]:g} to {high[part]:g}, as are {outside.any(axis=1).mean():.0%} of all'
        where = f'actions[{row}, {part}] is {actions[row, part]:g}'
        raise file.error(f'{where}, outside of the bounds {bounds}')
    arrays['actions'] = to_unit(actions, low, high)
    return layouts.nest(arrays)
