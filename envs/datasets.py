"""Offline data of the cube tasks: found on disk, downloaded, or collected; checked; labelled.

The files are OGBench's: <name>.npz, or several shards <name>-000.npz, <name>-001.npz and so on,
each with observations, actions, terminals, qpos [R, ...]. The last row of an episode is its final
state, so a state is stored once and is the next state of the row before it.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
import zlib
from pathlib import Path

import gymnasium
import numpy as np
from absl import logging
from ogbench.relabel_utils import relabel_dataset
from ogbench.utils import DATASET_URL, DEFAULT_DATASET_DIR
from tqdm import tqdm

from envs.cube import make_env, parse_dataset, parse_task

ACTION_LIMIT = 1 - 1e-5  # keeps actions inside the open interval
RELABEL_ROWS = 100_000  # rows given rewards at a time, to bound temporary memory
PUBLIC_EPISODES = {'single': 1000, 'double': 1000, 'triple': 3000, 'quadruple': 5000}
SOURCES = ('auto', 'download', 'collect')


class DatasetError(ValueError):
    """A data file is missing, broken, or not what was asked for."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Offline data in one or more files ("shards"), read when asked for.

    Attributes:
        name: such as 'cube-double-play-v0'.
        paths: the shards, in order.
        num_rows: of each shard.
        provenance: where the data comes from, ready for JSON: 'source' is 'downloaded',
            'collected' or 'on disk' (there before, made by means unknown).
    """

    name: str
    paths: tuple[Path, ...]
    num_rows: tuple[int, ...]
    provenance: dict
    env: gymnasium.Env = dataclasses.field(repr=False, compare=False)
    sparse: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, shard: int) -> dict:
        """Reads one shard; peak memory is about that of what is returned.

        Args:
            shard: 0 to len(self) − 1.

        Returns:
            Dict of arrays with R rows: observations [R, d_s] float32, actions [R, d_a] float32
            (clipped to ±ACTION_LIMIT), rewards [R] float32, masks [R] float32 (0 where the task is
            solved), terminals [R] bool (True on the last row of each episode, whose action means
            nothing). Rewards and masks are those of the row's own state, as OGBench labels them.

        Raises:
            DatasetError: the file is damaged or holds numbers that are not finite.
        """
        path = self.paths[shard]
        with _reading(path), np.load(path) as file:
            qpos = file['qpos']
            _check_finite(path, 'qpos', qpos)
            rewards, masks = self._label(qpos)
            del qpos  # before the next large array is read
            terminals = file['terminals'].astype(bool, copy=False)
            observations = file['observations'].astype(np.float32, copy=False)
            actions = file['actions'].astype(np.float32, copy=False)
        for key, rows in (('observations', observations), ('actions', actions)):
            _check_finite(path, key, rows)
        np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)
        return {
            'observations': observations,
            'actions': actions,
            'rewards': rewards,
            'masks': masks,
            'terminals': terminals,
        }

    def _label(self, qpos):
        rewards, masks = np.empty((2, len(qpos)), np.float32)
        for start in range(0, len(qpos), RELABEL_ROWS):
            rows = slice(start, start + RELABEL_ROWS)
            block = {'qpos': qpos[rows]}
            relabel_dataset(self.env.spec.id, self.env, block)
            rewards[rows], masks[rows] = block['rewards'], block['masks']
        if self.sparse:
            rewards[rewards != 0] = -1
        return rewards, masks


def make_dataset(env_name, directory, source, sparse, num_episodes, seed, num_workers) -> Dataset:
    """See `envs.make_dataset`."""
    name = parse_task(env_name).dataset
    if source not in SOURCES:
        raise ValueError(f'source={source}: must be one of {", ".join(SOURCES)}')
    if num_episodes is not None and source != 'collect':
        raise ValueError(
            f"num_episodes={num_episodes}: only for source='collect', not source={source!r}; "
            'what is on disk or downloaded is taken whole'
        )
    directory = Path(directory or DEFAULT_DATASET_DIR).expanduser()
    if num_episodes is None:
        num_episodes = public_episodes(name)

    paths, made = find_files(directory, name), 'on disk'
    if not paths and source == 'collect':
        _collect(name, directory, num_episodes, seed, num_workers)
        paths = find_files(directory, name)
    elif not paths:
        paths, made = [download(name, directory)], 'downloaded'

    manifest = read_manifest(paths, name)
    if source == 'collect':
        _check_collection(paths[0], manifest, num_episodes, seed)
    elif source == 'download' and manifest:
        raise DatasetError(
            f'{paths[0]}: collected here, not downloaded; delete it and its manifest {name}.json, '
            "choose another directory, or take it with source='auto'"
        )
    env = make_env(env_name)
    num_rows = tuple(check_file(path, env) for path in paths)

    if manifest:
        made = 'collected'
    provenance = {
        'source': made,
        'directory': str(paths[0].parent),
        'files': [path.name for path in paths],
        **{key: manifest[key] for key in ('episodes', 'seed', 'ogbench') if manifest},
    }
    logging.info('Offline data %s: %s', name, json.dumps(provenance))
    return Dataset(name, tuple(paths), num_rows, provenance, env, sparse)


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


def read_manifest(paths: list[Path], name: str) -> dict | None:
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


def _check_collection(path, manifest, num_episodes, seed):
    fix = 'delete it, choose another directory, or ask for what is there'
    if manifest is None:
        raise DatasetError(
            f"{path}: source='collect' was asked for, but this file has no manifest, so it was not "
            f"collected; {fix} with source='auto'"
        )
    for key, asked in (('episodes', num_episodes), ('seed', seed)):
        if manifest[key] != asked:
            raise DatasetError(f'{path}: collected with {key}={manifest[key]}, not {asked}; {fix}')


def public_episodes(name: str) -> int:
    """The number of training episodes, of 1000 transitions each, in the public data set."""
    return 100_000 if '-100m-' in name else PUBLIC_EPISODES[parse_dataset(name)]


def collect_command(name: str, num_episodes: int) -> str:
    """The command that collects data like `name`, in shards of 1M transitions where those are."""
    shards = f' --num_shards={-(-num_episodes // 1000)}' if '-100m-' in name else ''
    return f'python -m envs.collect --env_name={name} --num_episodes={num_episodes}{shards}'


def _collect(name, directory, num_episodes, seed, num_workers):
    """Runs the command, so that its workers do not import all that this process has imported."""
    command = collect_command(name, num_episodes).split()[1:]
    command = [sys.executable, *command, f'--seed={seed}', f'--save_dir={directory.absolute()}']
    if num_workers is not None:
        command.append(f'--num_workers={num_workers}')
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()  # it ends its workers and removes its files
            raise
    if status != 0:
        raise RuntimeError(f'`{" ".join(command)}` failed (status {status}); see above')


def download(name: str, directory: Path) -> Path:
    """Downloads the training file of `name` from OGBench's server, or from OGBENCH_DATASET_URL.

    Raises:
        DatasetError: this data set is not downloaded automatically.
        RuntimeError: the download failed; the message has the command that collects such data.
    """
    if '-100m-' in name:
        raise DatasetError(
            f'{name}: not in {directory}, and too large to be downloaded automatically; download '
            'its files by hand and give their directory with --ogbench_dataset_dir, or collect '
            f'such data: {collect_command(name, public_episodes(name))}'
        )
    url = f'{os.environ.get("OGBENCH_DATASET_URL", DATASET_URL)}/{name}.npz'
    path = directory / f'{name}.npz'
    if (manifest := directory / f'{name}.json').exists():
        raise DatasetError(f'{manifest}: left over from a collection that is gone; delete it')
    directory.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.npz.{os.getpid()}.part')  # another run may be downloading too
    try:
        _fetch(url, part)
        part.replace(path)
    except (OSError, http.client.HTTPException, ValueError, zipfile.BadZipFile) as error:
        raise RuntimeError(
            f'{url}: download failed ({error}). Try again, or collect such data here: '
            f'{collect_command(name, public_episodes(name))}'
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(url, part):
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
    widths = {
        'observations': env.observation_space.shape,
        'actions': env.action_space.shape,
        'terminals': (),
        'qpos': (env.unwrapped.model.nq,),
    }
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if missing := [key for key in widths if f'{key}.npy' not in names]:
            raise _bad(path, f'has no {", ".join(missing)}')
        shapes = {key: _shape(archive, key) for key in widths}
    for key, shape in shapes.items():
        if shape[1:] != widths[key] or not shape:
            raise _bad(path, f'{key} has shape {shape}, {env.spec.id} needs (R, *{widths[key]})')
        if shape[0] != shapes['observations'][0]:
            rows = ', '.join(f'{key} {shape[0]}' for key, shape in shapes.items())
            raise _bad(path, f'row counts differ: {rows}')
    with _reading(path), np.load(path) as file:
        terminals = file['terminals']
    if not terminals.any():
        raise _bad(path, 'terminals is True nowhere, so no episode ends')
    if not terminals[-1]:
        raise _bad(path, 'the last row is not terminal, so its last episode is cut off')
    return len(terminals)


def _shape(archive, key):
    with archive.open(f'{key}.npy') as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        return read(file)[0]


def _check_finite(path, key, rows):
    # The extremes are finite if and only if everything is, and they need no temporary array.
    if not np.isfinite([rows.min(), rows.max()]).all():
        row = np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]
        raise _bad(path, f'{key} is not finite in row {row}')


def _bad(path, what):
    return DatasetError(f'{path}: {what}; delete it and download or collect it again')


@contextlib.contextmanager
def _reading(path):
    try:
        yield
    except DatasetError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _bad(path, f'cannot be read, it may be cut off or damaged ({error})') from error
