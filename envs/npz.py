"""Reads .npz files that may hold anything; what cannot be right is a `DatasetError`.

NumPy's reader takes as much memory as a header promises, waits for ever at a named pipe, leaves
bytes unchecked that a wrong header hides, and has many kinds of errors. Here a file is refused
before memory is taken, whatever is read of an array is compared with its CRC-32, and numbers become
float32 while they are read, without a second copy.
"""

import contextlib
import io
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError

REPLACE = 'delete it and download or collect it again'
NUMBERS, FLAGS = 'fi', 'bfiu'  # kinds of types that can be numbers, and True or False
FLAG_KEYS = ('terminals', 'masks')

# What zipfile and NumPy raise when they meet damaged bytes.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

_CHUNK = 1 << 20  # bytes of an array read at a time
_HEADER = 1 << 14  # bytes that an array's header has at most
_MOST_DEFLATED = 1032  # bytes that one byte of deflate can stand for
_MOST_EXACT = 1 << 24  # float32 holds all integers up to here
_UNREADABLE = 0x1 | 0x20 | 0x40  # flags of a zip entry: encrypted, patched, strongly encrypted
_KINDS = {
    stat.S_IFDIR: 'directory',
    stat.S_IFIFO: 'named pipe',
    stat.S_IFSOCK: 'socket',
    stat.S_IFCHR: 'device',
    stat.S_IFBLK: 'device',
}

Content = list[list[Any]]  # name, size and CRC-32 of each entry: equal for equal arrays


class DatasetError(UserError):
    """A data file is missing, broken, or not what was asked for."""


class Header(NamedTuple):
    """What an array says of itself, and the bytes it takes to say so."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int

    @property
    def num_values(self) -> int:
        """How many the array has."""
        return math.prod(self.shape)


class Checked(NamedTuple):
    """What a check found: the rows of a file, and what identifies its content."""

    num_rows: int
    content: Content | None


def read_array(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """Reads an array to its last byte, so that its CRC-32 is compared even if its header is wrong.

    Raises one of `DAMAGE` if it is damaged.
    """
    assert file.zip is not None  # it is open
    with file.zip.open(f'{name}.npy') as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f'{name} holds more than its header says')
    return array


def write_npz(path: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    """Writes the rows of all `episodes` as `np.savez` would, and empties them.

    One array at a time is put together, so that memory holds little more than the episodes.
    """
    with zipfile.ZipFile(path, 'w', allowZip64=True) as archive:
        for key in list(episodes[0]):
            rows = np.concatenate([episode.pop(key) for episode in episodes])
            with archive.open(f'{key}.npy', 'w', force_zip64=True) as file:
                np.lib.format.write_array(file, rows, allow_pickle=False)


def bad_file(path: Path, what: str, fix: str = REPLACE) -> DatasetError:
    """The error of a file: which, what is wrong with it, what to do."""
    return DatasetError(f'{path}: {what}; {fix}')


def check_regular_file(path: Path, fix: str = REPLACE) -> int:
    """Returns the size of a file in bytes, without opening it.

    Raises:
        DatasetError: it is missing, empty, out of reach or no file, such as a named pipe.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            target = os.readlink(path)
            raise bad_file(path, f'is a link to {target}, which is not there', fix) from error
        raise bad_file(
            path, 'is missing', 'put it there, or download or collect it again'
        ) from error
    except OSError as error:
        raise bad_file(path, f'cannot be reached ({error.strerror})', fix) from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), 'thing')
        raise bad_file(path, f'is a {kind}, not a file', fix)
    if not status.st_size:
        raise bad_file(path, 'is empty', fix)
    return status.st_size


@contextlib.contextmanager
def open_npz(path: Path, fix: str = REPLACE) -> Iterator['NpzFile']:
    """Opens a file for reading; no array has been read yet.

    Args:
        path: of the file.
        fix: what to do about a bad file, for the error.

    Raises:
        DatasetError: it is no file of arrays, or promises more than it holds.
    """
    size = check_regular_file(path, fix)
    with _reading(path, fix):
        archive = zipfile.ZipFile(path)
    with archive:
        yield NpzFile(path, fix, archive, size)


@contextlib.contextmanager
def _reading(path: Path, fix: str) -> Iterator[None]:
    """Turns the errors of a file that cannot be read into a DatasetError that names it."""
    try:
        yield
    except DatasetError:
        raise
    except MemoryError as error:
        raise bad_file(path, 'needs more memory than there is', 'free some') from error
    except PermissionError as error:
        raise bad_file(path, f'cannot be read ({error.strerror})', 'make it readable') from error
    except OSError as error:
        raise bad_file(path, f'cannot be read ({error.strerror or error})', fix) from error
    except DAMAGE as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise bad_file(
            path, f'cannot be read, it may be cut off or damaged ({reason})', fix
        ) from error


class NpzFile:
    """An open .npz file, from `open_npz`.

    Attributes:
        path: of the file.
        content: name, size and CRC-32 of each entry, ready for JSON.
    """

    def __init__(self, path: Path, fix: str, archive: zipfile.ZipFile, size: int):
        self.path, self._fix, self._archive = path, fix, archive
        entries = archive.infolist()
        self.content: Content = [[x.filename, x.file_size, x.CRC] for x in entries]
        if len(archive.NameToInfo) < len(entries):
            raise self.error('holds two arrays of one name')
        if sum(entry.compress_size for entry in entries) > size:
            raise self.error('promises more than it holds')
        for entry in entries:
            self._check_entry(entry, size)

    def __contains__(self, key: str) -> bool:
        return f'{key}.npy' in self._archive.NameToInfo

    def error(self, what: str) -> DatasetError:
        """Returns the error that names this file."""
        return bad_file(self.path, what, self._fix)

    def _check_entry(self, entry: zipfile.ZipInfo, size: int) -> None:
        if entry.flag_bits & _UNREADABLE:
            raise self.error(f'{entry.filename!r} is encrypted')
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.error(f'{entry.filename!r} is compressed in a way that NumPy does not use')
        is_stored = entry.compress_type == zipfile.ZIP_STORED
        most = entry.compress_size * (1 if is_stored else _MOST_DEFLATED)
        if (
            entry.header_offset + entry.compress_size > size
            or entry.file_size > most
            or (is_stored and entry.file_size != most)
        ):
            raise self.error(f'{entry.filename!r} promises more than the file holds')
        with _reading(self.path, self._fix):
            self._archive.open(entry).close()  # compares both places that have its name

    def header(self, key: str) -> Header:
        """Returns the header of an array that is in the file.

        Raises:
            DatasetError: it cannot be read, is of a type that makes no sense for `key`, or promises
                more or less than there is.
        """
        entry = self._archive.getinfo(f'{key}.npy')
        with _reading(self.path, self._fix), self._archive.open(entry) as file:
            head = io.BytesIO(file.read(_HEADER))
        try:
            header = _parse_header(head)
        except (MemoryError, *DAMAGE) as error:
            raise self.error(f'{key} has no header that NumPy can read') from error
        kinds, needed = NUMBERS, 'floating-point numbers (float32)'
        if key in FLAG_KEYS:
            kinds, needed = FLAGS, 'True or False (bool)'
        if header.dtype.kind not in kinds:
            raise self.error(f'{key} is of type {str(header.dtype)[:40]}, needs {needed}')
        promised = header.offset + header.num_values * header.dtype.itemsize
        if promised != entry.file_size or min(header.shape, default=0) < 0:
            raise self.error(
                f'{key} of shape {header.shape} needs {promised} bytes, but has {entry.file_size}'
            )
        return header

    def _chunks(self, key: str, header: Header) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the place of each piece of an array, and the piece, in the file's order."""
        size = header.dtype.itemsize
        step = _CHUNK // size
        with _reading(self.path, self._fix), self._archive.open(f'{key}.npy') as file:
            file.read(header.offset)
            for start in range(0, header.num_values, step):
                num_bytes = min(step, header.num_values - start) * size
                data = file.read(num_bytes)  # the last one compares the CRC-32
                if len(data) < num_bytes:
                    raise EOFError(f'{key} is cut off')
                yield start, np.frombuffer(data, header.dtype)

    def read_numbers(self, key: str) -> np.ndarray:
        """Reads an array of numbers as float32; too large ones become infinite.

        Raises:
            DatasetError: it is damaged, or has integers that float32 cannot tell apart.
        """
        header = self.header(key)
        is_integer = header.dtype.kind == 'i'
        with _reading(self.path, self._fix):
            numbers = np.empty(header.num_values, np.float32)
        for start, values in self._chunks(key, header):
            if is_integer and max(-int(values.min()), int(values.max())) > _MOST_EXACT:
                place = start + int(np.argmax((values > _MOST_EXACT) | (values < -_MOST_EXACT)))
                raise self.error(
                    f'{key} is {values[place - start]} in row {_row(header, place)}, beyond the '
                    f'integers that float32 holds (±{_MOST_EXACT})'
                )
            with np.errstate(over='ignore', invalid='ignore'):
                numbers[start : start + len(values)] = values
        return _shaped(numbers, header)

    def read_flags(self, key: str) -> np.ndarray:
        """Reads an array of True and False, in whatever type, as bool.

        Raises:
            DatasetError: it is damaged, or has other numbers than 0 and 1.
        """
        header = self.header(key)
        with _reading(self.path, self._fix):
            flags = np.empty(header.num_values, bool)
        for start, values in self._chunks(key, header):
            if values.dtype == bool:
                values = values.view(np.uint8)  # a byte of a damaged file can be more than 1
            is_one = values == 1
            wrong = ~is_one & (values != 0)
            if wrong.any():
                place = int(np.argmax(wrong))
                raise self.error(
                    f'{key} is {values[place]} in row {_row(header, start + place)}, must be '
                    'True or False (1 or 0)'
                )
            flags[start : start + len(values)] = is_one
        return _shaped(flags, header)


def _parse_header(file: io.BytesIO) -> Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version in ((2, 0), (3, 0)):
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f'version {version}')
    return Header(shape, dtype, is_fortran, file.tell())


def _shaped(flat: np.ndarray, header: Header) -> np.ndarray:
    if header.is_fortran:
        return flat.reshape(header.shape[::-1]).T
    return flat.reshape(header.shape)


def _row(header: Header, place: int) -> int:
    return int(np.unravel_index(place, header.shape, 'F' if header.is_fortran else 'C')[0])


def check_npz(
    path: Path,
    widths: Mapping[str, tuple[int, ...]],
    env_name: str,
    fix: str = REPLACE,
    optional: tuple[str, ...] = (),
) -> Checked:
    """Checks all of an .npz file that can be checked without reading it whole.

    Args:
        path: the file.
        widths: its arrays, 'observations' and 'terminals' among them, and the shape of a row of
            each.
        env_name: what the data is for, for the error.
        fix: what to do about a bad file, for the error.
        optional: those of `widths` that may be missing.

    Returns:
        The number of its rows, and its content as it is now.

    Raises:
        DatasetError: the file is damaged, lacks an array, or does not fit the environment.
    """
    with open_npz(path, fix) as file:
        widths = {key: w for key, w in widths.items() if key in file or key not in optional}
        if missing := [key for key in widths if key not in file]:
            raise file.error(f'has no {", ".join(missing)}')
        shapes = {key: file.header(key).shape for key in widths}
        for key, shape in shapes.items():
            if shape[1:] != widths[key] or not shape:
                needs = ', '.join(map(str, ('R', *widths[key])))
                raise file.error(f'{key} has shape {shape}, {env_name} needs ({needs})')
        if len({shape[0] for shape in shapes.values()}) > 1:
            rows = ', '.join(f'{key} {shape[0]}' for key, shape in shapes.items())
            raise file.error(f'row counts differ: {rows}')
        needed = 4 * sum(map(math.prod, shapes.values()))
        if needed > _memory():
            gib = f'{needed / 2**30:.1f} GiB'
            raise file.error(f'needs {gib} of memory, this machine has {_memory() / 2**30:.1f}')
        _check_terminals(file, file.read_flags('terminals'))
    return Checked(shapes['terminals'][0], file.content)


def _check_terminals(file: NpzFile, terminals: np.ndarray) -> None:
    if not len(terminals):
        raise file.error('has no rows')
    if not terminals.any():
        raise file.error('terminals is True nowhere, so no episode ends')
    if not terminals[-1]:
        raise file.error('the last row is not terminal, so its last episode is cut off')
    if terminals.all():
        raise file.error('terminals is True in every row, so there is no transition')


def _memory() -> int:
    """Returns the bytes of memory that this machine has."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def check_finite(path: Path, key: str, rows: np.ndarray, fix: str = REPLACE) -> None:
    """Raises DatasetError if some number of `rows` [R, ...] is not finite."""
    # The extremes are finite if and only if everything is, and they need no temporary array.
    if not np.isfinite([rows.min(), rows.max()]).all():
        row = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))[0]
        raise bad_file(path, f'{key} is not finite in row {row} (as float32)', fix)
