"""Data files that hold anything at all: a clear error that names the file, or what is in it."""

import io
import os
import socket
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import toy_suite
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from small_data import make_arrays, write

from envs import npz
from envs.datasets import DatasetError, npz_dataset, to_unit

EXAMPLES = int(os.environ.get('DATA_EXAMPLES', '200'))  # of each property
KEYS = ('observations', 'actions', 'rewards', 'masks', 'terminals')


def load(path):
    return npz_dataset('x', [path], toy_suite.Push()).load(0)


def npy(rows, **header):
    """Returns an array as .npy, with other entries in its header."""
    file = io.BytesIO()
    version = header.pop('version', (1, 0))
    entries = np.lib.format.header_data_from_array_1_0(rows) | header
    text = (repr(entries) + '\n').encode()
    size = struct.pack('<H' if version == (1, 0) else '<I', len(text))
    file.write(b'\x93NUMPY' + bytes(version) + size + text + rows.tobytes())
    return file.getvalue()


def write_members(path, members, compression=zipfile.ZIP_STORED):
    """Writes bytes under names."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of two members of one name
        with zipfile.ZipFile(path, 'w', compression) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return path


def members(**changes):
    return [(f'{key}.npy', npy(rows)) for key, rows in (make_arrays() | changes).items()]


def refuses(path, message):
    with pytest.raises(DatasetError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f'{path}: ')
    assert '\n' not in str(caught.value)


def with_value(key, value, dtype):
    rows = make_arrays()[key].astype(dtype)
    rows[4] = value
    return {key: rows}


STRUCTURED = np.zeros(6, [('x', 'f4'), ('y', 'f4')])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'terminals': np.array(['a', 'b'] * 3)}, 'terminals is of type <U1, needs True or False'),
        (with_value('terminals', np.nan, float), 'terminals is nan in row 4, must be True or'),
        (with_value('terminals', 0.5, float), 'terminals is 0.5 in row 4'),
        (with_value('terminals', 2, np.uint8), 'terminals is 2 in row 4'),
        ({'terminals': np.ones(6, bool)}, 'terminals is True in every row, so there is no trans'),
        (with_value('masks', 0.5, float), 'masks is 0.5 in row 4'),
        (with_value('masks', -1, int), 'masks is -1 in row 4'),
        ({'observations': np.full((6, 3), 'a')}, 'observations is of type <U1, needs floating'),
        ({'observations': np.zeros((6, 3), 'M8[s]')}, r'observations is of type datetime64\[s\]'),
        ({'observations': np.zeros((6, 3), np.uint8)}, 'observations is of type uint8'),
        ({'observations': np.zeros((6, 3), bool)}, 'observations is of type bool'),
        ({'actions': np.zeros((6, 1), complex)}, 'actions is of type complex128'),
        ({'actions': np.zeros((6, 1), object)}, 'actions is of type object'),
        ({'rewards': STRUCTURED}, 'rewards is of type .*x.*, needs floating'),
        ({'rewards': np.zeros(6, 'S3')}, r'rewards is of type \|S3'),
        (with_value('observations', 1e300, float), 'observations is not finite in row 4'),
        (with_value('observations', 2**40, int), 'observations is 1099511627776 in row 4, beyond'),
        (with_value('actions', -(2**63), np.int64), 'actions is -9223372036854775808 in row 4'),
        ({key: rows[:0] for key, rows in make_arrays().items()}, 'has no rows'),
        ({key: rows[-1:] for key, rows in make_arrays().items()}, 'terminals is True in every row'),
        ({'observations': np.float32(0)}, r'observations has shape \(\), Push needs \(R, 3\)'),
        ({'terminals': np.array(True)}, r'terminals has shape \(\)'),
    ],
)
def test_what_is_no_data_is_an_error_that_names_it(tmp_path, changes, message):
    refuses(write(tmp_path / 'x.npz', **changes), message)


@pytest.mark.parametrize('dtype', ['<f2', '>f4', '<f8', '>f8', np.longdouble, '<i1', '>i8'])
@pytest.mark.parametrize('order', 'CF')
def test_numbers_of_other_types_and_orders_become_the_same_float32(tmp_path, dtype, order):
    arrays = {
        key: np.asarray(np.round(rows), dtype, order=order)
        for key, rows in make_arrays().items() if key != 'terminals'
    }  # fmt: skip
    terminals = make_arrays()['terminals'].astype(dtype)
    data = load(write(tmp_path / 'x.npz', **arrays, terminals=terminals))
    np.testing.assert_array_equal(data['observations'], arrays['observations'])
    np.testing.assert_array_equal(data['terminals'], terminals == 1)
    assert {rows.dtype.str for rows in data.values()} == {'<f4', '|b1'}


@pytest.mark.parametrize('chunk', [8, 20, 1 << 20])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_files_are_read_in_pieces_to_the_same(tmp_path, monkeypatch, chunk, save):
    arrays = make_arrays()
    save(tmp_path / 'x.npz', **arrays)
    monkeypatch.setattr(npz, '_CHUNK', chunk)
    assert_equal(load(tmp_path / 'x.npz'), meaning(arrays))
    arrays['observations'] = np.asfortranarray(arrays['observations'].astype(int))
    arrays['observations'][4, 1] = 2**25
    save(tmp_path / 'x.npz', **arrays)
    refuses(tmp_path / 'x.npz', 'observations is 33554432 in row 4')


@pytest.mark.parametrize(
    ('header', 'message'),
    [
        ({'shape': (5, 3)}, r'observations of shape \(5, 3\) needs \d+ bytes, but has'),
        ({'shape': (10**12, 3)}, r'observations of shape \(10{12}, 3\) needs 12\d+ bytes'),
        ({'shape': (-6, 3)}, r'observations of shape \(-6, 3\)'),
        ({'shape': (-6, -3)}, r'observations of shape \(-6, -3\)'),
        ({'shape': [6, 3]}, 'observations has no header that NumPy can read'),
        ({'descr': 'nonsense'}, 'observations has no header'),
        ({'descr': '<f8'}, 'needs 2'),
        ({'descr': '|O'}, 'observations is of type object'),
        ({'fortran_order': 1}, 'observations has no header'),
        ({'more': 1}, 'observations has no header'),
        ({'version': (9, 0)}, 'observations has no header'),
        ({'descr': [('x', '<f4')] * 2}, 'observations has no header'),
        ({'descr': 'x' * 20_000}, 'observations has no header'),
    ],
)
def test_headers_that_promise_something_else_are_refused_before_memory_is_taken(
    tmp_path, header, message
):
    rows = make_arrays()['observations']
    content = [(k, npy(rows, **header) if k == 'observations.npy' else v) for k, v in members()]
    path = write_members(tmp_path / 'x.npz', content)
    tracemalloc.start()
    refuses(path, message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_headers_nested_without_end_are_refused(tmp_path):
    text = b'(' * 9000
    header = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text
    path = write_members(tmp_path / 'x.npz', [*members()[1:], ('observations.npy', header)])
    refuses(path, 'observations has no header that NumPy can read')


def test_compressed_files_cannot_promise_more_than_deflate_can_hold(tmp_path):
    path = tmp_path / 'x.npz'
    arrays = {key: np.concatenate([rows] * 10_000) for key, rows in make_arrays().items()}
    np.savez_compressed(path, **arrays)
    assert len(load(path)['rewards']) == 60_000
    content = bytearray(path.read_bytes())
    at = content.rindex(b'observations.npy') - 22  # the size in the directory
    (size,) = struct.unpack_from('<I', content, at)
    assert size == 128 + 4 * 3 * 60_000
    struct.pack_into('<I', content, at, 2**31)
    path.write_bytes(content)
    refuses(path, "'observations.npy' promises more than the file holds")


def test_more_than_the_memory_of_the_machine_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / 'x.npz')
    monkeypatch.setattr(npz, '_memory', lambda: 50)
    refuses(path, 'needs 0.0 GiB of memory, this machine has 0.0')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([*members(), members()[1]], 'holds two arrays of one name'),
        ([(name[:-4], content) for name, content in members()], 'has no observations, actions'),
        ([], 'has no observations'),
    ],
)
def test_other_archives_are_refused(tmp_path, content, message):
    refuses(write_members(tmp_path / 'x.npz', content), message)


@pytest.mark.parametrize('compression', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_kinds_of_compression_are_refused(tmp_path, compression):
    path = write_members(tmp_path / 'x.npz', members(), compression)
    refuses(path, 'compressed in a way that NumPy does not use')


def test_encrypted_files_are_refused(tmp_path):
    content = bytearray(write(tmp_path / 'x.npz').read_bytes())
    content[content.index(b'PK\x01\x02') + 8] |= 1
    (tmp_path / 'x.npz').write_bytes(content)
    refuses(tmp_path / 'x.npz', "'observations.npy' is encrypted")


def test_an_array_whose_name_is_damaged_is_not_taken_for_one_that_was_left_out(tmp_path):
    content = write(tmp_path / 'x.npz').read_bytes()
    at = content.rindex(b'masks.npy')
    (tmp_path / 'x.npz').write_bytes(content[:at] + b'n' + content[at + 1 :])
    refuses(tmp_path / 'x.npz', 'cannot be read, it may be cut off or damaged .*differ')


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (make_fifo, 'is a named pipe, not a file'),
        (make_socket, 'is a socket, not a file'),
        (lambda path: path.symlink_to('/dev/zero'), 'is a device, not a file'),
        (lambda path: path.mkdir(), 'is a directory, not a file'),
        (lambda path: path.symlink_to('nowhere'), 'is a link to nowhere, which is not there'),
        (lambda path: path.symlink_to(path), 'cannot be reached .*symbolic links'),
        (lambda path: path.touch(), 'is empty'),
        (lambda path: None, 'is missing; put it there, or download or'),
    ],
)
def test_what_is_no_file_is_named_and_not_opened(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'x.npz')
    refuses(tmp_path / 'x.npz', message)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, 'Permission denied')

    path = write(tmp_path / 'x.npz')
    monkeypatch.setattr(zipfile, 'ZipFile', refuse)
    refuses(path, r'cannot be read \(Permission denied\); make it readable')


def test_a_file_that_changed_since_it_was_checked_is_refused(tmp_path):
    path = write(tmp_path / 'x.npz')
    dataset = npz_dataset('x', [path], toy_suite.Push())
    before = dataset.fingerprint
    os.utime(path, (0, 0))
    dataset.load(0)  # only the content counts
    write(path, **make_arrays(seed=1))
    with pytest.raises(DatasetError, match=f'{path}: has changed since it was checked'):
        dataset.load(0)
    assert dataset.fingerprint == before


def test_large_files_with_64_bit_sizes_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
        for name, content in members():
            with archive.open(name, 'w', force_zip64=True) as file:
                file.write(content)
    assert_equal(load(tmp_path / 'x.npz'), meaning(make_arrays()))


# ---- properties ---------------------------------------------------------------------------------


def meaning(arrays):
    """Returns what arrays that are data mean, by NumPy alone."""
    with np.errstate(over='ignore'):
        data = {key: np.array(rows).astype(np.float32) for key, rows in arrays.items()}
    data['terminals'] = data['terminals'] == 1
    data.setdefault('masks', np.ones(len(data['terminals']), np.float32))
    data['rewards'][data['terminals']] = 0
    data['actions'][data['terminals']] = 0
    data['actions'] = to_unit(data['actions'], np.array([-2.0]), np.array([2.0]))
    return data


def assert_equal(data, expected):
    for key in KEYS:
        np.testing.assert_array_equal(data[key], expected[key], err_msg=key)


def outcome(path, content, expected):
    """Loads what is written; returns whether that was refused. If not, it must be as expected."""
    path.write_bytes(content)
    try:
        data = load(path)
    except DatasetError as error:
        message = str(error)
    else:
        assert_equal(data, expected())
        return 'equal'
    assert message.startswith(f'{path}: ')
    assert '\n' not in message
    return 'refused'


def whole_files():
    """Yields files of the same arrays, stored, compressed, and with 64-bit sizes."""
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **make_arrays())
        yield file.getvalue()
    file = io.BytesIO()
    write_members(file, members())
    yield file.getvalue()


WHOLE = list(whole_files())
EXPECTED = meaning(make_arrays())
PLACES = st.integers(0, 2**20)


@st.composite
def damaged(draw):
    """Returns a kind of damage, and the bytes of a whole file after it."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    kind = draw(st.sampled_from(['cut', 'flip', 'zeros', 'lost', 'added', 'moved', 'directory']))
    start = draw(PLACES) % len(content)
    size = draw(st.integers(1, 64))
    end = start + size
    if kind == 'cut':
        del content[start:]
    elif kind == 'flip':
        for _ in range(draw(st.integers(1, 3))):
            content[draw(PLACES) % len(content)] ^= 1 << draw(st.integers(0, 7))
    elif kind == 'zeros':
        content[start:end] = bytes(len(content[start:end]))
    elif kind == 'lost':
        del content[start:end]
    elif kind == 'added':
        content[start:start] = draw(st.binary(min_size=1, max_size=64))
    elif kind == 'moved':
        piece = content[start:end]
        del content[start:end]
        place = draw(PLACES) % (len(content) + 1)
        content[place:place] = piece
    else:  # in the directory and its end, where single bytes mean much
        first = content.index(b'PK\x01\x02')
        place = first + draw(PLACES) % (len(content) - first)
        content[place] = draw(st.integers(0, 255))
    return kind, bytes(content)


SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SETTINGS
@given(damaged())
def test_a_damaged_file_is_refused_or_loads_as_if_it_were_whole(tmp_path, damage):
    kind, content = damage
    event(f'{kind}: {outcome(tmp_path / "x.npz", content, lambda: EXPECTED)}')


DTYPES = [
    '|b1', '|i1', '|u1', '<i2', '>i4', '<i8', '<u8', '<f2', '<f4', '>f4', '<f8', '>f8', '<f16',
    '<c8', '<c16', '|O', '<U2', '|S4', '|V4', '<M8[s]', '<m8[D]', [('x', '<f4')],
]  # fmt: skip
SHAPES = st.one_of(
    st.sampled_from([(6, 3), (6, 1), (6,), (3, 6), (5, 3), (7, 3), (), (18,), (6, 3, 1), (0, 3)]),
    st.lists(st.integers(-2, 2**40), max_size=3).map(tuple),
)
VALUES = st.one_of(
    st.floats(width=64), st.integers(-(2**62), 2**62), st.sampled_from([0, 1, 0.5, 1e38, 1e39])
)


@st.composite
def rewritten(draw):
    """Returns a kind of change, and a file of intact checksums whose arrays mean something else."""
    kind = draw(
        st.sampled_from(['header', 'value', 'type', 'swapped', 'dropped', 'twice', 'rows', 'zip'])
    )
    arrays = make_arrays()
    key, other = draw(st.sampled_from(KEYS)), draw(st.sampled_from(KEYS))
    if kind == 'value':
        dtype = draw(st.sampled_from(['<f8', '<i8', '<f4', '>f2', '|u1']))
        with np.errstate(all='ignore'):
            rows = arrays[key].astype(dtype)
            value = np.array(draw(VALUES))
            rows[draw(st.integers(0, 5))] = value.astype(dtype)
        arrays[key] = rows
    elif kind == 'type':
        with np.errstate(all='ignore'):
            try:
                arrays[key] = arrays[key].astype(draw(st.sampled_from(DTYPES)))
            except (TypeError, ValueError):
                arrays[key] = np.zeros(arrays[key].shape, 'O')
    elif kind == 'swapped':
        arrays[key], arrays[other] = arrays[other], arrays[key]
    elif kind == 'dropped':
        del arrays[key]
    elif kind == 'rows':
        number = draw(st.integers(0, 6))
        for each in KEYS if draw(st.booleans()) else [key]:
            arrays[each] = arrays[each][:number]
    parts = {
        f'{name}.npy': npy(rows) if not rows.dtype.hasobject else npy_of_objects(rows)
        for name, rows in arrays.items()
    }
    if kind == 'header':
        header = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    'shape': SHAPES,
                    'descr': st.sampled_from(DTYPES),
                    'fortran_order': st.booleans(),
                    'version': st.sampled_from([(1, 0), (2, 0), (3, 0), (4, 0)]),
                },
            )
        )
        parts[f'{key}.npy'] = npy(arrays[key], **header)
    items = list(parts.items())
    if kind == 'twice':
        items.append((f'{key}.npy', parts[f'{other}.npy']))
    compression = zipfile.ZIP_STORED
    if kind == 'zip':
        compression = draw(st.sampled_from([0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
        items = draw(st.permutations([*items, ('folder/', b''), ('note.txt', b'text')]))
    file = io.BytesIO()
    write_members(file, items, compression)
    return kind, file.getvalue()


def npy_of_objects(rows):
    file = io.BytesIO()
    np.lib.format.write_array(file, rows, allow_pickle=True)
    return file.getvalue()


@SETTINGS
@given(rewritten())
def test_a_file_of_other_arrays_is_refused_or_loads_as_what_numpy_reads(tmp_path, change):
    kind, content = change

    def expected():
        with np.load(io.BytesIO(content)) as file:
            return meaning({key: file[key] for key in KEYS if key in file})

    event(f'{kind}: {outcome(tmp_path / "x.npz", content, expected)}')
