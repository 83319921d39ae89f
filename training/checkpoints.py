"""Checkpoints: one .npz file each, which NumPy opens anywhere.

A file holds named groups of arrays, '<group>/<path in the tree>', and the array 'metadata', a JSON
text. It is written under a temporary name and renamed when complete, so an unfinished checkpoint is
never loaded. The CRC-32 of each array is verified on reading, and nothing in the file is
executable.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from envs.npz import DAMAGE, read_array
from utils.errors import UserError

SUFFIX, METADATA, UNFINISHED = '.npz', 'metadata', '.unfinished'
Arrays = dict[str, np.ndarray]  # by path in a tree, such as 'params/actor/kernel'


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit the agent."""


def flatten(tree: Any) -> Arrays:
    """Returns the leaves of a tree as NumPy arrays, by their paths."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as 'params/actor/kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(template: Any, arrays: Mapping[str, np.ndarray], where: str) -> Any:
    """Returns a tree like `template` with the arrays from `flatten`.

    Args:
        template: a tree of arrays or of `jax.ShapeDtypeStruct`.
        arrays: by path; may include arrays of other trees.
        where: names the checkpoint in errors.

    Raises:
        CheckpointError: an array is missing, or its shape or type differs.
    """
    problem, fix = f'{where}: does not fit this agent', "use the settings in its run's flags.json"

    def find(path, leaf):
        name = _name(path)
        if name not in arrays:
            raise CheckpointError(f'{problem}: it has no {name}; {fix}')
        found = arrays[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise CheckpointError(
                f'{problem}: its {name} is {found.dtype}{found.shape}, needed is '
                f'{leaf.dtype}{leaf.shape}; {fix}'
            )
        return found

    return jax.tree_util.tree_map_with_path(find, template)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def save(path: pathlib.Path, arrays: Arrays, metadata: Mapping) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: of the file, which is replaced if it exists.
        arrays: by '<group>/<path in the tree>'.
        metadata: ready for JSON.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(exist_ok=True)  # without parents: the run's folder may have been removed
    part = path.with_name(f'{UNFINISHED}-{path.name}')
    try:
        with part.open('wb') as file:
            text = np.array(json.dumps(metadata))
            np.savez(file, allow_pickle=False, **{METADATA: text}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(OSError):  # not supported by some file systems
        os.fsync(folder)  # so that the rename survives a power failure
    os.close(folder)


def find(path: str | pathlib.Path, flag: str = 'restore_path') -> pathlib.Path:
    """Returns the path of a checkpoint, without opening it.

    Args:
        path: of a checkpoint, with or without '.npz', or of a run, for its newest checkpoint.
        flag: that the path comes from, for the error.

    Raises:
        CheckpointError: there is none.
    """
    return _candidates(path, flag)[0]


def load(path: str | pathlib.Path, *groups: str) -> tuple[dict, Arrays]:
    """Reads a checkpoint.

    Args:
        path: see `find`. For a run, damaged checkpoints are skipped with a warning.
        groups: to read, by name; default: all.

    Returns:
        The metadata, and the arrays of the groups, each path prefixed with '<group>/'.

    Raises:
        CheckpointError: there is no checkpoint, or all are damaged.
    """
    *newer, last = _candidates(path)
    for candidate in newer:
        try:
            return _read(candidate, groups)
        except CheckpointError as error:
            logging.warning('%s; trying the previous checkpoint.', error)
    return _read(last, groups)


def _candidates(path: str | pathlib.Path, flag: str = 'restore_path') -> list[pathlib.Path]:
    """Returns the checkpoint at a path, or those of a run, newest first."""
    path = pathlib.Path(path).expanduser()
    for file in (path, path.with_name(f'{path.name}{SUFFIX}')):
        if file.is_file():
            return [file]
    if found := _newest_first(path / 'checkpoints') or _newest_first(path):
        return found
    raise CheckpointError(
        f'--{flag}={path}: no checkpoint there; name the directory of a run, or one of its '
        f'checkpoints, such as exp/<group>/<env>/<run>/checkpoints/online-000040000{SUFFIX}'
    )


def _read(path: pathlib.Path, groups: tuple[str, ...]) -> tuple[dict, Arrays]:
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = set(groups or (name.partition('/')[0] for name in file.files)) - {METADATA}
            names = [name for name in file.files if name.partition('/')[0] in wanted]
            metadata = json.loads(read_array(file, METADATA).item())
            return metadata, {name: read_array(file, name) for name in names}
    except DAMAGE as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'{path}: not a checkpoint, or damaged ({reason})') from error


def _newest_first(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the finished checkpoints in a folder, newest first: 'online-…' before 'offline-…'."""
    found = [*folder.glob(f'offline-*{SUFFIX}'), *folder.glob(f'online-*{SUFFIX}')]
    return sorted(found, key=lambda path: (path.name.startswith('online'), path.name), reverse=True)


class Checkpoints:
    """The checkpoints of a run: the newest few, written in the background.

    The end of the offline phase is kept as well, so that other online phases can start from it.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        """Removes the files of interrupted saves.

        Args:
            folder: of the run's checkpoints.
            keep: how many of the newest to keep.
        """
        self._folder, self._keep = folder, keep
        self._executor = ThreadPoolExecutor(1, thread_name_prefix='checkpoints')
        self._saving: Future | None = None
        self._last_is_written = True
        for path in folder.glob(f'{UNFINISHED}-*'):
            path.unlink()

    def save(self, name: str, arrays: Arrays, metadata: Mapping) -> None:
        """Starts to write a checkpoint, after waiting for the previous one.

        If it cannot be written, it logs a warning and keeps the previous checkpoints.

        Args:
            name: '<phase>-<step>' with the step in nine digits.
            arrays, metadata: as in the function `save`. The arrays must not change afterwards.
        """
        self.wait()
        path = self._folder / f'{name}{SUFFIX}'
        self._saving = self._executor.submit(self._save, path, arrays, metadata)

    def _save(self, path, arrays, metadata) -> bool:
        try:
            save(path, arrays, metadata)
            self._prune()
        except OSError as error:
            why = error.strerror or error
            logging.warning('%s: could not be saved (%s); the run continues.', path, why)
            return False
        return True

    def _prune(self) -> None:
        finished = _newest_first(self._folder)
        end_of_offline = [path for path in finished if path.name.startswith('offline')][:1]
        for path in finished[self._keep :]:
            if path not in end_of_offline or finished[0] in end_of_offline:
                path.unlink()

    def wait(self) -> bool:
        """Waits for the current save; returns whether the last checkpoint was written."""
        if self._saving is not None:
            self._last_is_written = self._saving.result()
            self._saving = None
        return self._last_is_written

    @property
    def last(self) -> pathlib.Path | None:
        """The newest finished checkpoint, or None."""
        return next(iter(_newest_first(self._folder)), None)

    def newest(self) -> tuple[dict, Arrays] | None:
        """Loads the newest intact checkpoint, see `load`; returns None if there is none.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        self.wait()
        if self.last is None:
            return None
        try:
            return load(self._folder)
        except CheckpointError as error:
            raise CheckpointError(
                f'{error}; all its checkpoints are damaged; start a new run with --fresh'
            ) from error

    def close(self) -> None:
        """Waits for the current save and ends the thread."""
        self.wait()
        self._executor.shutdown()
