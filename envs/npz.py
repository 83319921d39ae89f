"""Data files of arrays (.npz), read with checks.

Any problem with a file is a `DatasetError` of one line that names it.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile

from utils.errors import UserError

REPLACE = 'delete it and download or collect it again'

HDF5 = b'\x89HDF\r\n\x1a\n'  # the first bytes of such a file
TO_NPZ = 'write its arrays to an .npz: numpy.savez(path, observations=file["observations"][()], …)'

# Exceptions of NumPy, zipfile and zlib for damaged files.
DAMAGE = (
    *(OSError, EOFError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


class DatasetError(UserError):
    """A data file is missing, damaged, or not the requested one."""


class Column(NamedTuple):
    """Shape and type of a row of an array.

    Attributes:
        shape: of a row.
        dtype: of the array when read: np.float32 from numbers of any type; np.uint8 as stored; bool
            from 0 and 1 in any type.
    """

    shape: tuple[int, ...]
    dtype: type = np.float32


def bad_file(path: Path, what: str, fix: str = REPLACE) -> DatasetError:
    """Returns the error of a file: its path, the problem, and the fix."""
    return DatasetError(f'{path}: {what}; {fix}')


def read_array(file: NpzFile, key: str) -> np.ndarray:
    """Reads an array to its last byte, so that its CRC-32 is verified even if its header is wrong.

    Raises one of `DAMAGE` if it is damaged.
    """
    assert file.zip is not None  # it is open
    with file.zip.open(f'{key}.npy') as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f'{key} is longer than its header says')
    return array


@contextlib.contextmanager
def open_npz(path: Path, fix: str = REPLACE) -> Iterator['DataFile']:
    """Opens a file without reading its arrays.

    Args:
        path: of the file.
        fix: advice for a bad file, for the error.

    Raises:
        DatasetError: it is missing, or not a file of arrays.
    """
    with contextlib.ExitStack() as stack:
        with reading(path, fix):
            raw = stack.enter_context(path.open('rb'))
            if raw.read(8) == HDF5:
                raise bad_file(path, 'is an HDF5 file, as those of D4RL and Minari', TO_NPZ)
            raw.seek(0)
            if not zipfile.is_zipfile(raw):
                raise ValueError('not a zip file, as .npz files are')
            file = stack.enter_context(np.load(raw, allow_pickle=False))
        yield DataFile(path, fix, file)


@contextlib.contextmanager
def reading(path: Path, fix: str) -> Iterator[None]:
    """Turns errors while reading a file into a DatasetError that names it."""
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise bad_file(path, 'is missing', 'put it there, or download or collect it') from error
    except DAMAGE as error:
        reason = ' '.join(str(getattr(error, 'strerror', None) or error).split())
        what = f'cannot be read, it may be cut off or damaged ({reason})'
        raise bad_file(path, what, fix) from error


class DataFile:
    """An open .npz file, from `open_npz`.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, fix: str, file: NpzFile):
        self.path, self._fix, self._file = path, fix, file

    def __contains__(self, key: str) -> bool:
        return key in self._file.files

    @property
    def content(self) -> list[list[Any]]:
        """Name, size and CRC-32 of each array, ready for JSON: equal for equal arrays."""
        assert self._file.zip is not None
        return [[x.filename, x.file_size, x.CRC] for x in self._file.zip.infolist()]

    def error(self, what: str) -> DatasetError:
        """Returns the error that names this file."""
        return bad_file(self.path, what, self._fix)

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Returns shape and type of an array without reading it."""
        assert self._file.zip is not None
        with reading(self.path, self._fix), self._file.zip.open(f'{key}.npy') as member:
            if np.lib.format.read_magic(member) == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(member)
        return shape, dtype

    def check(self, columns: Mapping[str, Column], env_name: str) -> int:
        """Checks names, shapes, types and lengths of arrays without reading them.

        Args:
            columns: the required arrays.
            env_name: of the environment, for the error.

        Returns:
            The number of rows, R.

        Raises:
            DatasetError: an array is missing or does not fit.
        """
        if missing := [key for key in columns if key not in self]:
            raise self.error(f'has no {", ".join(missing)}')
        lengths = {}
        for key, column in columns.items():
            shape, dtype = self.header(key)
            if not shape or shape[1:] != column.shape:
                needs = ', '.join(map(str, ('R', *column.shape)))
                raise self.error(f'{key} has shape {shape}, {env_name} needs ({needs})')
            is_image = column.dtype is np.uint8
            if dtype.kind not in 'fiub' or (is_image and dtype != np.uint8):
                needs = 'uint8' if is_image else 'numbers (float32)'
                raise self.error(f'{key} is of type {dtype}, {env_name} needs {needs}')
            lengths[key] = shape[0]
        if len(set(lengths.values())) > 1:
            rows = ', '.join(f'{key} {length}' for key, length in lengths.items())
            hint = 'with an observation more per episode, as in Minari, add next_observations'
            raise self.error(f'row counts differ: {rows} ({hint})')
        num_rows = next(iter(lengths.values()))
        if not num_rows:
            raise self.error('has no rows')
        return num_rows

    def read(self, key: str, dtype: type = np.float32) -> np.ndarray:
        """Reads an array as a type of `Column`.

        Raises:
            DatasetError: it is damaged, or for bool has values other than 0 and 1.
        """
        with reading(self.path, self._fix):
            array = read_array(self._file, key)
        if dtype is bool and array.dtype != bool and not np.isin(array, (0, 1)).all():
            row = np.flatnonzero(~np.isin(array, (0, 1)))[0]
            raise self.error(f'{key} is {array[row]} in row {row}, must be True or False (1 or 0)')
        with np.errstate(over='ignore', invalid='ignore'):  # too large numbers become infinite
            return array.astype(dtype, copy=False)

    def read_finite(self, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """Reads arrays.

        Raises:
            DatasetError: one is damaged or has a number that is not finite.
        """
        arrays = {key: self.read(key, column.dtype) for key, column in columns.items()}
        for key, rows in arrays.items():
            self.check_finite(key, rows)
        return arrays

    def check_finite(self, key: str, rows: np.ndarray) -> None:
        """Raises DatasetError if a number in `rows` [R, ...] is not finite."""
        # The extremes are finite iff everything is, and they need no temporary array.
        if not np.isfinite([rows.min(), rows.max()]).all():
            row = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))[0]
            raise self.error(f'{key} is not finite in row {row} (as float32)')

    def read_terminals(self) -> np.ndarray:
        """Reads `terminals` [R] of a file in which each episode has a row for its final state.

        Raises:
            DatasetError: they do not delimit episodes.
        """
        terminals = self.read('terminals', bool)
        if not terminals[-1] or terminals.all():
            found = f'{terminals.sum()} of {len(terminals)} rows'
            found += ', but not in the last one' * (not terminals[-1])
            raise self.error(f'terminals is True in {found}; it must mark the end of each episode')
        return terminals
