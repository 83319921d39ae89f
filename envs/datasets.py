"""Offline data, for all suites: found on disk, downloaded or collected, and checked.

Data lies in <name>.npz, or in several shards <name>-000.npz, <name>-001.npz and so on. The last row
of an episode is its final state, so a state is stored once and is the next state of the row before
it; the final row's action and reward mean nothing.
"""

import contextlib
import functools
import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from envs.processes import python_path
from envs.suite import Suite
from utils.errors import UserError

SOURCES = ('auto', 'download', 'collect')
REPLACE = 'delete it and download or collect it again'
OUTSIDE = 1e-3  # how far an action may leave its bounds, as a part of their range

Arrays = dict[str, np.ndarray]


class DatasetError(UserError):
    """A data file is missing, broken, or not what was asked for."""


@dataclass(frozen=True)
class Dataset:
    """Offline data in one or more files ("shards"), read when asked for.

    Attributes:
        name: such as 'cube-double-play-v0'.
        paths: the shards, in order.
        num_rows: of each shard.
        provenance: where the data comes from, ready for JSON: 'source' is 'downloaded',
            'collected' or 'on disk' (there before, made by means unknown).
        read_shard: what `load` calls with a path.
    """

    name: str
    paths: tuple[Path, ...]
    num_rows: tuple[int, ...]
    provenance: dict[str, Any]
    read_shard: Callable[[Path], Arrays] = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, shard: int) -> Arrays:
        """Reads one shard; peak memory is about that of what is returned.

        Args:
            shard: 0 to len(self) − 1.

        Returns:
            Dict of arrays with R rows: observations [R, d_s] float32, actions [R, d_a] float32
            in [−1, 1], rewards [R] float32, masks [R] float32 (0 where the task is solved),
            terminals [R] bool (True on the last row of each episode, whose action means nothing).

        Raises:
            DatasetError: the file is damaged or holds numbers that make no sense.
        """
        return self.read_shard(self.paths[shard])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the contents of all files, independent of their names and places.

        Of an .npz file it reads only the zip directory: names, sizes and CRC-32s of the arrays. Any
        other file it reads whole.
        """
        contents = [_content(path) for path in self.paths]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def _content(path: Path) -> list | str:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return [[entry.filename, entry.file_size, entry.CRC] for entry in archive.infolist()]
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def check_source(source: str, num_episodes: int | None) -> None:
    """Raises UserError for an unknown source, and for episodes where none are collected."""
    if source not in SOURCES:
        raise UserError(f'source={source}: must be one of {", ".join(SOURCES)}')
    if num_episodes is not None and source != 'collect':
        raise UserError(
            f"num_episodes={num_episodes}: only for source='collect', not source={source!r}; "
            'what is on disk or downloaded is taken whole'
        )


def obtain(
    name: str,
    directory: Path,
    source: str,
    *,
    num_episodes: int,
    seed: int,
    download: Callable[[], Path],
    collect: Callable[[], None],
    manifest_keys: Sequence[str] = ('episodes', 'seed'),
) -> tuple[list[Path], dict[str, Any]]:
    """Finds files in `directory`; downloads or collects them if there are none.

    Args:
        name: of the data.
        directory: where the files are or shall be.
        source: 'auto' takes the files in `directory` if there are any, whatever made them, and
            downloads them otherwise. 'download' takes or fetches the public files. 'collect' takes
            or makes a scripted collection of exactly `num_episodes` and `seed`.
        num_episodes: episodes to collect.
        seed: of the collection.
        download: puts a file into `directory` and returns its path.
        collect: collects into `directory`, such as `run_collection`.
        manifest_keys: what provenance takes from a collection's manifest.

    Returns:
        The files in order, and their provenance (see `Dataset`).

    Raises:
        DatasetError: the files found are not what was asked for.
    """
    paths, made = find_files(directory, name), 'on disk'
    if not paths and source == 'collect':
        collect()
        paths = find_files(directory, name)
    elif not paths:
        paths, made = [download()], 'downloaded'

    manifest = read_manifest(paths, name)
    if source == 'collect':
        _check_collection(paths[0], manifest, num_episodes, seed)
    elif source == 'download' and manifest:
        raise DatasetError(
            f'{paths[0]}: collected here, not downloaded; delete it and its manifest {name}.json, '
            "choose another directory, or take it with source='auto'"
        )
    provenance = {
        'source': 'collected' if manifest else made,
        'directory': str(paths[0].parent),
        'files': [path.name for path in paths],
    }
    if manifest:
        provenance |= {key: manifest[key] for key in manifest_keys}
    return paths, provenance


def find_files(directory: Path, name: str) -> list[Path]:
    """The training files of `name` in `directory` or its subdirectory `name`, in order."""
    for folder in (directory, directory / name):
        single = folder / f'{name}.npz'
        if single.exists():
            return [single]
        shards = {}
        for path in folder.glob(f'{name}-*.npz'):
            if match := re.fullmatch(r'-(\d+)\.npz', path.name.removeprefix(name)):
                shards[int(match[1])] = path
        if shards:
            return [shards[number] for number in sorted(shards)]
    return []


def read_manifest(paths: list[Path], name: str) -> dict[str, Any] | None:
    """What `envs.collect` wrote about the files `paths`, or None if it did not make them.

    Raises:
        DatasetError: the manifest beside them is unreadable or speaks of other files.
    """
    manifest_path = paths[0].parent / f'{name}.json'
    if not manifest_path.exists():
        return None
    fix = 'delete the manifest if other files took the place of the collected ones'
    try:
        manifest = json.loads(manifest_path.read_text())
        expected = manifest['bytes']
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f'{manifest_path}: not a manifest ({error!r}); {fix}') from error
    found = {path.name: path.stat().st_size for path in paths}
    if found != expected:
        wrong = sorted(dict(found.items() ^ expected.items()))
        raise DatasetError(
            f'{manifest_path}: describes other files than those there (missing, added or of '
            f'another size: {", ".join(wrong)}); {fix}, or delete all of them and collect again'
        )
    return manifest


def _check_collection(
    path: Path, manifest: dict[str, Any] | None, num_episodes: int, seed: int
) -> None:
    fix = 'delete it, choose another directory, or ask for what is there'
    if manifest is None:
        raise DatasetError(
            f"{path}: source='collect' was asked for, but this file has no manifest, so it was not "
            f"collected; {fix} with source='auto'"
        )
    for key, asked in (('episodes', num_episodes), ('seed', seed)):
        if manifest[key] != asked:
            raise DatasetError(f'{path}: collected with {key}={manifest[key]}, not {asked}; {fix}')


def collect_command(
    name: str, num_episodes: int, num_shards: int = 1, suite: Suite | None = None
) -> str:
    """Returns the command that collects data like `name`.

    Args:
        name: of the data.
        num_episodes: training episodes.
        num_shards: files to spread them over.
        suite: of the data; needed only if it is not registered with `envs`.
    """
    command = f'python -m envs.collect --env_name={name} --num_episodes={num_episodes}'
    if num_shards > 1:
        command += f' --num_shards={num_shards}'
    if suite is not None:
        if suite.reference is None:
            raise UserError(
                f'suite {suite.name}: collecting needs it as an attribute of the module that its '
                f'class is in ({type(suite).__module__})'
            )
        command += f' --suite={suite.reference}'
    return command


def run_collection(command: str, directory: Path, seed: int, num_workers: int | None) -> None:
    """Runs a command of `collect_command` in a process of its own, into `directory`.

    It stops and removes its files when this process leaves here or dies, however that happens.

    Raises:
        UserError: it failed.
    """
    arguments = [sys.executable, *command.split()[1:]]
    arguments += [f'--seed={seed}', f'--save_dir={directory.absolute()}']
    arguments.append('--end_with_stdin')
    if num_workers is not None:
        arguments.append(f'--num_workers={num_workers}')
    environment = {**os.environ, 'PYTHONPATH': python_path()}
    root = Path(__file__).parents[1]
    pipe = subprocess.PIPE  # closed at the end of the block, or by the system
    with subprocess.Popen(
        arguments, cwd=root, env=environment, stdin=pipe, start_new_session=True
    ) as process:
        status = process.wait()
    if status != 0:
        raise UserError(f'`{" ".join(arguments)}` failed (status {status}); see above')


def download_file(url: str, directory: Path, name: str, otherwise: str) -> Path:
    """Downloads `<directory>/<name>.npz`; it appears there only once it is complete and intact.

    Args:
        url: of the file.
        directory: made if need be.
        name: of the data.
        otherwise: what else the user can do, for the error.

    Raises:
        DatasetError: a collection's manifest is in the way.
        UserError: the download failed.
    """
    path = directory / f'{name}.npz'
    if (manifest := directory / f'{name}.json').exists():
        raise DatasetError(f'{manifest}: left over from a collection that is gone; delete it')
    directory.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.npz.{os.getpid()}.part')  # another run may be downloading too
    try:
        _fetch(url, part)
        part.replace(path)
    except (OSError, http.client.HTTPException, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f'{url}: download failed ({error}). Try again, or {otherwise}') from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: Path) -> None:
    with (
        urllib.request.urlopen(url, timeout=60) as response,
        part.open('wb') as file,
        tqdm(total=response.length, desc=url.split('/')[-1], unit='B', unit_scale=True) as bar,
    ):
        expected = response.length
        while chunk := response.read(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))
    if expected is not None and part.stat().st_size != expected:
        raise OSError(f'{part.stat().st_size} of {expected} bytes arrived')
    with zipfile.ZipFile(part) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f'{damaged} is damaged')


def check_npz(
    path: Path, widths: Mapping[str, tuple[int, ...]], env_name: str, fix: str = REPLACE
) -> int:
    """Checks all of an .npz file that can be checked without reading it whole.

    Args:
        path: the file.
        widths: the arrays it must have, 'observations' and 'terminals' among them, and the shape
            of a row of each.
        env_name: what the data is for, for the error.
        fix: what to do about a bad file, for the error.

    Returns:
        The number of its rows.

    Raises:
        DatasetError: the file is damaged, lacks an array, or does not fit the environment.
    """
    with reading(path, fix), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if missing := [key for key in widths if f'{key}.npy' not in names]:
            raise bad_file(path, f'has no {", ".join(missing)}', fix)
        shapes = {key: _shape(archive, key) for key in widths}
    for key, shape in shapes.items():
        if shape[1:] != widths[key] or not shape:
            needs = ', '.join(map(str, ('R', *widths[key])))
            raise bad_file(path, f'{key} has shape {shape}, {env_name} needs ({needs})', fix)
        if shape[0] != shapes['observations'][0]:
            rows = ', '.join(f'{key} {shape[0]}' for key, shape in shapes.items())
            raise bad_file(path, f'row counts differ: {rows}', fix)
    with reading(path, fix), np.load(path) as file:
        terminals = file['terminals']
    if not terminals.any():
        raise bad_file(path, 'terminals is True nowhere, so no episode ends', fix)
    if not terminals[-1]:
        raise bad_file(path, 'the last row is not terminal, so its last episode is cut off', fix)
    return len(terminals)


def _shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    with archive.open(f'{key}.npy') as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        return read(file)[0]


def check_finite(path: Path, key: str, rows: np.ndarray, fix: str = REPLACE) -> None:
    """Raises DatasetError if some number of `rows` [R, ...] is not finite."""
    # The extremes are finite if and only if everything is, and they need no temporary array.
    if not np.isfinite([rows.min(), rows.max()]).all():
        row = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))[0]
        raise bad_file(path, f'{key} is not finite in row {row}', fix)


def bad_file(path: Path, what: str, fix: str = REPLACE) -> DatasetError:
    """The error of a file: which, what is wrong with it, what to do."""
    return DatasetError(f'{path}: {what}; {fix}')


@contextlib.contextmanager
def reading(path: Path, fix: str = REPLACE) -> Iterator[None]:
    """Turns the errors of a damaged file into a DatasetError that names it."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise bad_file(
            path, f'cannot be read, it may be cut off or damaged ({error})', fix
        ) from error


def npz_dataset(
    name: str,
    paths: Sequence[Path],
    env: gymnasium.Env,
    provenance: dict[str, Any] | None = None,
) -> Dataset:
    """Returns the data of files that have rewards in them, for suites of your own.

    Each .npz holds

    - observations [R, d_s];
    - actions [R, d_a] in the environment's own units. They are mapped from its bounds to [−1, 1];
    - rewards [R], which the row's action earned;
    - terminals [R], True on the last row of each episode: its final state, whose action and reward
      mean nothing and become 0;
    - optionally masks [R], 0 where the row's action ended the task, so that no reward comes after
      it. Without masks all are 1: each episode counts as cut off (by a time limit, say), and its
      last state still has a value.

    Args:
        name: of the data.
        paths: of the files, in order.
        env: what `suite.make_env` returns: with the environment's own bounds of actions.
        provenance: see `Dataset`; by default, the files were there before.

    Raises:
        DatasetError: here, or when loaded: a file is damaged, does not fit the environment, or has
            an action outside the bounds by more than 1e-3 of their range.
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    assert env.observation_space.shape is not None
    widths = {
        'observations': env.observation_space.shape,
        'actions': space.shape,
        'rewards': (),
        'terminals': (),
    }
    fix = 'correct what wrote it'
    label = type(env.unwrapped).__name__ if env.spec is None else env.spec.id
    num_rows = []
    for path in paths:
        with reading(path, fix), zipfile.ZipFile(path) as archive:
            masks: dict[str, tuple[int, ...]] = {'masks': ()}
            extra = masks if 'masks.npy' in archive.namelist() else {}
        num_rows.append(check_npz(path, widths | extra, label, fix))
    if provenance is None:
        provenance = {
            'source': 'on disk',
            'directory': str(paths[0].parent),
            'files': [path.name for path in paths],
        }
    read = functools.partial(_read_npz, low=space.low, high=space.high, fix=fix)
    return Dataset(name, tuple(paths), tuple(num_rows), provenance, read)


def _read_npz(path: Path, low: np.ndarray, high: np.ndarray, fix: str) -> Arrays:
    with reading(path, fix), np.load(path) as file:
        terminals = file['terminals'].astype(bool, copy=False)
        observations, rewards, actions = (
            file[key].astype(np.float32, copy=False)
            for key in ('observations', 'rewards', 'actions')
        )
        masks = np.ones(len(terminals), np.float32)
        if 'masks' in file:
            masks = file['masks'].astype(np.float32, copy=False)
    actions[terminals], rewards[terminals] = (low + high) / 2, 0
    arrays = {'observations': observations, 'actions': actions, 'rewards': rewards, 'masks': masks}
    for key, rows in arrays.items():
        check_finite(path, key, rows, fix)
    slack = OUTSIDE * (high - low)
    outside = (actions < low - slack) | (actions > high + slack)
    if outside.any():
        row, part = np.argwhere(outside)[0]
        raise bad_file(
            path,
            f'actions[{row}, {part}] is {actions[row, part]:g}, outside of the bounds '
            f'{low[part]:g} to {high[part]:g}',
            fix,
        )
    arrays['actions'] = to_unit(actions, low, high)
    return arrays | {'terminals': terminals}


def to_unit(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Maps actions [R, d_a] from `low` [d_a] and `high` [d_a] to [−1, 1], as float32."""
    unit = (2 * (actions - low) / (high - low) - 1).astype(np.float32, copy=False)
    return np.clip(unit, -1, 1, out=unit)
