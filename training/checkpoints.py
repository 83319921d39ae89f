"""Checkpoints: written whole, and verified before they are loaded.

A checkpoint is a directory with named groups of arrays (orbax), `run.json` (the metadata) and
`digest.json` (size and SHA-256 of each file). It is written under another name and renamed when all
of it is on the disk, so an unfinished checkpoint is never loaded. Every byte is compared with the
digest before anything is loaded, and nothing in a checkpoint is executable.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from utils.errors import UserError

METADATA, DIGEST, UNFINISHED = 'run.json', 'digest.json', '.unfinished'
OLD = '-old'  # ends the name of a checkpoint that another is about to replace
Arrays = dict[str, np.ndarray]  # by their path in a tree, such as 'params/actor/kernel'


class CheckpointError(UserError):
    """A checkpoint is missing, is not whole, or does not fit the agent."""


def flatten(tree: Any) -> Arrays:
    """Returns the leaves of a tree as NumPy arrays, by their paths."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as 'params/actor/kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(template: Any, arrays: Mapping[str, np.ndarray], where: str) -> Any:
    """Returns a tree like `template` with the arrays that `flatten` gave.

    Args:
        template: a tree of arrays or of `jax.ShapeDtypeStruct`.
        arrays: by path; arrays of other trees may be among them.
        where: names the checkpoint in errors.

    Raises:
        CheckpointError: an array is missing, or has another shape or type.
    """

    def find(path, leaf):
        name = _name(path)
        if name not in arrays:
            raise CheckpointError(
                f'{where}: does not fit this agent: it has no {name}; start it with the settings '
                f'in its {METADATA}'
            )
        found = arrays[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise CheckpointError(
                f'{where}: does not fit this agent: its {name} is {found.dtype}{found.shape}, '
                f'needed is {leaf.dtype}{leaf.shape}; start it with the settings in its {METADATA}'
            )
        return found

    return jax.tree_util.tree_map_with_path(find, template)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def save(directory: pathlib.Path, groups: Mapping[str, Arrays], metadata: Mapping) -> None:
    """Writes a whole checkpoint, or none.

    Args:
        directory: of the checkpoint. One that is there is replaced.
        groups: arrays that are read together, by the group's name.
        metadata: ready for JSON.

    Raises:
        Exception: it cannot be written; of many kinds, as libraries raise them.
    """
    import orbax.checkpoint as ocp  # takes two seconds; only those who save wait for it

    directory = directory.absolute()
    part = directory.with_name(f'{UNFINISHED}-{directory.name}')
    old = directory.with_name(f'{UNFINISHED}-{directory.name}{OLD}')
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(exist_ok=True)  # not the run's folder, if that vanished
    part.mkdir()
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            for name, arrays in groups.items():
                checkpointer.save(part / name, arrays)
        (part / METADATA).write_text(json.dumps(metadata, indent=1))
        files = sorted(path for path in part.rglob('*') if path.is_file())
        digest = {str(path.relative_to(part)): _digest(path, sync=True) for path in files}
        with (part / DIGEST).open('w') as file:
            json.dump(digest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if directory.exists():
            directory.rename(old)
        part.rename(directory)
        _sync(directory.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _settle(old)


def _settle(old: pathlib.Path) -> None:
    """Removes a checkpoint that was replaced, or puts it back if nothing took its place."""
    replacement = old.with_name(old.name.removeprefix(f'{UNFINISHED}-').removesuffix(OLD))
    if old.exists() and not replacement.exists():
        old.rename(replacement)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: pathlib.Path) -> None:
    """Lets the names in a folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems cannot
        os.fsync(descriptor)
    os.close(descriptor)


def load(directory: str | pathlib.Path, *groups: str) -> tuple[dict, Arrays]:
    """Reads a checkpoint.

    Args:
        directory: of the checkpoint.
        groups: to read, by name; groups that the checkpoint lacks are left out. Every file is
            compared with the digest, whether it is read or not.

    Returns:
        The metadata, and the arrays of the groups, each path preceded by '<group>/'.

    Raises:
        CheckpointError: there is no checkpoint, or a part of it is missing, cut or damaged.
    """
    directory = pathlib.Path(directory).expanduser().absolute()
    verify(directory)
    import orbax.checkpoint as ocp

    arrays = {}
    try:
        metadata = json.loads((directory / METADATA).read_text())
        with _silent_libraries(), ocp.PyTreeCheckpointer() as checkpointer:
            for group in filter(lambda group: (directory / group).is_dir(), groups):
                for name, array in checkpointer.restore(directory / group).items():
                    arrays[f'{group}/{name}'] = np.asarray(array)
    except Exception as error:  # libraries have errors of many kinds for what is not theirs
        raise CheckpointError(f'{directory}: cannot be read ({_one_line(error)})') from error
    return metadata, arrays


def check_metadata(metadata: Any, kinds: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Raises CheckpointError unless metadata is a mapping with entries of these kinds."""
    if not isinstance(metadata, dict):
        raise CheckpointError(f'{where}: its {METADATA} holds no settings')
    for name, kind in kinds.items():
        if name not in metadata:
            raise CheckpointError(f'{where}: its {METADATA} has no {name}')
        if not isinstance(metadata[name], kind):
            raise CheckpointError(
                f'{where}: its {METADATA} has {name}={metadata[name]!r:.50}, which is not of its '
                'kind'
            )


def _one_line(error: Exception) -> str:
    line = ' '.join(f'{error}'.split()) or type(error).__name__
    if code := re.search(r"os_error_code='(\d+)'", line):  # what the rest says in 20 lines
        return os.strerror(int(code[1]))
    return line[:300]


def verify(directory: pathlib.Path) -> None:
    """Compares every file with the digest.

    Raises:
        CheckpointError: there is no checkpoint, or a part of it is missing, cut or damaged.
    """
    if not (directory / DIGEST).is_file():
        raise CheckpointError(
            f'{directory}: no checkpoint there (no {DIGEST}); give the directory of a run, or one '
            'of its checkpoints'
        )
    for path in directory.rglob('*'):  # a pipe would be waited for, a link may lead anywhere
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f'{path}: neither a file nor a directory')
    try:
        expected = json.loads((directory / DIGEST).read_text())
        wanted = {name: (int(size), str(sha)) for name, (size, sha) in expected.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f'{directory}: its {DIGEST} is damaged') from error
    found = {
        str(path.relative_to(directory)) for path in directory.rglob('*') if path.is_file()
    } - {DIGEST}
    if different := sorted(found ^ set(wanted)):
        missing = [name for name in different if name in wanted]
        what = f'its {missing[0]} is missing' if missing else f'its {different[0]} is not its own'
        raise CheckpointError(f'{directory}: {what}')
    for name, (size, sha) in wanted.items():
        path = directory / name
        if path.stat().st_size != size:
            raise CheckpointError(
                f'{directory}: its {name} is cut: {path.stat().st_size} of {size} bytes'
            )
        if _digest(path)[1] != sha:
            raise CheckpointError(f'{directory}: its {name} is damaged')


def _digest(path: pathlib.Path, sync: bool = False) -> tuple[int, str]:
    with path.open('rb') as file:
        sha = hashlib.file_digest(file, 'sha256').hexdigest()
        if sync:
            os.fsync(file.fileno())
    return path.stat().st_size, sha


def candidates(path: str | pathlib.Path, flag: str = 'restore_path') -> list[pathlib.Path]:
    """Returns the checkpoints that a path may mean: itself, or those of a run, newest first.

    Args:
        path: of a run or a checkpoint.
        flag: that the path was given by, for the error.

    Raises:
        CheckpointError: there are none.
    """
    path = pathlib.Path(path).expanduser()
    if (path / DIGEST).is_file():
        return [path]
    if found := _newest_first(path / 'checkpoints') + _newest_first(path):
        return found
    raise CheckpointError(
        f'--{flag}={path}: no checkpoint there; give the directory of a run, or one of its '
        'checkpoints, like exp/<group>/<env>/<run>/checkpoints/online-000040000'
    )


def find(path: str | pathlib.Path, flag: str = 'restore_path') -> pathlib.Path:
    """Returns the checkpoint at a path, or the newest whole one of the run there.

    Args: see `candidates`.

    Raises:
        CheckpointError: there is none.
    """
    first, *others = candidates(path, flag)
    for candidate in [first, *others] if others else []:
        with _warn_of_damage(candidate):
            verify(candidate)
            return candidate
    return first


def _newest_first(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the finished checkpoints in a folder; 'online-…' come after 'offline-…'."""
    found = [path.parent for path in folder.glob(f'*/{DIGEST}')]
    found = [path for path in found if not path.name.startswith(UNFINISHED)]
    return sorted(found, key=lambda path: (path.name.startswith('online'), path.name), reverse=True)


@contextlib.contextmanager
def _warn_of_damage(path: pathlib.Path):
    try:
        yield
    except CheckpointError as error:
        logging.warning('%s; trying the checkpoint before it.', error)


@contextlib.contextmanager
def _silent_libraries():
    """Keeps off the screen what orbax says of one error, hundreds of lines.

    Some of its threads go on a while and then complain that nobody waits for them any more.
    """
    if sys.unraisablehook is not _without_complaints:
        sys.unraisablehook = _without_complaints
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)  # for good: nobody else here uses it
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _without_complaints(unraisable: Any) -> None:
    if f'{unraisable.exc_value}' != 'Event loop is closed':
        sys.__unraisablehook__(unraisable)


class Checkpoints:
    """The checkpoints of a run: the newest few, written in the background.

    The end of the offline phase is kept beside them, so that other online phases can start there.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        """Removes what an interrupted save left, and puts back what it had taken away.

        Args:
            folder: of the run's checkpoints.
            keep: how many of the newest to keep.
        """
        self._folder, self._keep = folder, keep
        self._executor = ThreadPoolExecutor(1, thread_name_prefix='checkpoints')
        self._saving: Future | None = None
        self._last_is_written = True
        for path in folder.glob(f'{UNFINISHED}-*{OLD}'):
            _settle(path)
        for path in folder.glob(f'{UNFINISHED}-*'):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, name: str, groups: Mapping[str, Arrays], metadata: Mapping) -> None:
        """Starts to write a checkpoint, after waiting for the one before.

        If it cannot be written, a warning says so, and the checkpoints before it stay.

        Args:
            name: '<phase>-<step>' with the step in nine digits.
            groups, metadata: as for the function `save`. The arrays must not change afterwards.
        """
        self.wait()
        self._saving = self._executor.submit(self._save, self._folder / name, groups, metadata)

    def _save(self, directory, groups, metadata) -> bool:
        try:
            with _silent_libraries():
                save(directory, groups, metadata)
            self._prune()
        except Exception as error:  # whatever it is, it is not worth the run
            why = _one_line(error)
            logging.warning('%s: could not be saved (%s); the run goes on.', directory, why)
            return False
        return True

    def _prune(self) -> None:
        finished = _newest_first(self._folder)
        end_of_offline = [path for path in finished if path.name.startswith('offline')][:1]
        for path in finished[self._keep :]:
            if path in end_of_offline and finished[0] not in end_of_offline:
                continue
            # The digest goes first: without it a half-removed checkpoint is never loaded.
            (path / DIGEST).unlink()
            shutil.rmtree(path)

    def wait(self) -> bool:
        """Waits for the checkpoint that was started; tells whether the last one was written."""
        if self._saving is not None:
            self._last_is_written = self._saving.result()
            self._saving = None
        return self._last_is_written

    @property
    def last(self) -> pathlib.Path | None:
        """The newest checkpoint that is finished; None if there is none."""
        return next(iter(_newest_first(self._folder)), None)

    def newest(self, *groups: str) -> tuple[dict, Arrays] | None:
        """Loads the newest whole checkpoint as `load` does; returns None if there is none.

        A damaged one is named in a warning, and the one before it is used.

        Raises:
            CheckpointError: there are checkpoints, but none is whole.
        """
        self.wait()
        candidates = _newest_first(self._folder)
        for path in candidates:
            with _warn_of_damage(path):
                return load(path, *groups)
        if candidates:
            raise CheckpointError(
                f'{self._folder}: none of its checkpoints is whole; start anew with --fresh'
            )
        return None

    def close(self) -> None:
        """Waits for the checkpoint that was started, and ends the thread."""
        self.wait()
        self._executor.shutdown()
