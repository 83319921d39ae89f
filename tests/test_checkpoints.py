"""Checkpoints are whole, or they are not taken."""

import json
import logging
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import checkpoints, read_metadata
from training.checkpoints import CheckpointError, Checkpoints

TREE = {'params': jnp.arange(40.0), 'rng': jax.random.PRNGKey(3), 'count': jnp.int32(7)}


def write(directory, value=0.0, metadata=None):
    groups = {'agents': checkpoints.flatten(TREE), 'seeds': {'x': np.full(3, value)}}
    checkpoints.save(directory, groups, metadata or {'env_name': 'cube'})
    return directory


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    directory = write(tmp_path / 'c', 2.5)
    metadata, arrays = checkpoints.load(directory, 'agents', 'seeds', 'play')
    assert metadata == {'env_name': 'cube'}
    restored = checkpoints.unflatten({'agents': TREE}, arrays, 'c')['agents']
    jax.tree.map(np.testing.assert_array_equal, restored, TREE)
    assert restored['rng'].dtype == TREE['rng'].dtype
    np.testing.assert_array_equal(arrays['seeds/x'], [2.5] * 3)
    assert 'seeds/x' not in checkpoints.load(directory, 'agents')[1]


def test_a_checkpoint_of_other_shapes_or_names_does_not_fit(tmp_path):
    _, arrays = checkpoints.load(write(tmp_path / 'c'), 'agents')
    for wrong, message in (
        ({'params': jnp.zeros(5)}, r'c: does not fit .* agents/params is float32\(40,\), needed'),
        ({'more': jnp.zeros(1)}, 'c: does not fit this agent: it has no agents/more'),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoints.unflatten({'agents': TREE | wrong}, arrays, 'c')


def test_one_flipped_bit_anywhere_is_found(tmp_path):
    directory = write(tmp_path / 'c')
    rng = np.random.default_rng(0)
    files = sorted(path for path in directory.rglob('*') if path.is_file())
    assert len(files) > 10
    for path in files:
        whole = path.read_bytes()
        for position in rng.integers(len(whole), size=min(len(whole), 20)):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r'damaged|missing|not its own|cut'):
                checkpoints.load(directory, 'agents')
        path.write_bytes(whole)
    checkpoints.load(directory, 'agents')


def test_what_is_missing_cut_or_added_is_called_that(tmp_path):
    directory = write(tmp_path / 'c')
    metadata = (directory / checkpoints.METADATA).read_bytes()
    (directory / checkpoints.METADATA).write_bytes(metadata[:-1])
    with pytest.raises(CheckpointError, match=r'its run\.json is cut: \d+ of \d+ bytes'):
        checkpoints.load(directory)
    (directory / checkpoints.METADATA).unlink()
    with pytest.raises(CheckpointError, match=r'c: its run\.json is missing'):
        checkpoints.load(directory)
    (directory / checkpoints.METADATA).write_bytes(metadata)
    (directory / 'stray').touch()
    with pytest.raises(CheckpointError, match=r'its stray is not its own'):
        checkpoints.load(directory)
    with pytest.raises(CheckpointError, match='no checkpoint there'):
        checkpoints.load(tmp_path)


def test_nothing_executable_is_in_a_checkpoint(tmp_path):
    for path in write(tmp_path / 'c').rglob('*'):
        if path.is_file():
            assert b'pickle' not in path.read_bytes()
            assert not path.read_bytes().startswith(b'\x80')  # how a pickle starts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save_all(folder, keep, *found):
    kept = Checkpoints(folder, keep)
    for name in found:
        kept.save(name, {'agents': checkpoints.flatten(TREE)}, {'name': name})
    kept.close()


def test_the_newest_are_kept_and_the_end_of_the_offline_phase_with_them(tmp_path):
    save_all(tmp_path, 2, *(f'offline-{i:09d}' for i in (5, 10, 15)))
    assert names(tmp_path) == ['offline-000000010', 'offline-000000015']
    save_all(tmp_path, 2, *(f'online-{i:09d}' for i in (5, 10, 15)))
    assert names(tmp_path) == ['offline-000000015', 'online-000000010', 'online-000000015']
    assert checkpoints.find(tmp_path).name == 'online-000000015'


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_one_before(tmp_path):
    kept = Checkpoints(tmp_path, 2)
    for value in (1.0, 2.0):
        kept.save('online-000000003', {'seeds': {'x': np.full(2, value)}}, {'value': value})
    metadata, arrays = kept.newest('seeds')
    assert metadata == {'value': 2.0}
    np.testing.assert_array_equal(arrays['seeds/x'], [2.0, 2.0])
    assert names(tmp_path) == ['online-000000003']


def test_a_damaged_newest_is_named_and_the_one_before_it_used(tmp_path, caplog):
    save_all(tmp_path, 2, 'offline-000000005', 'online-000000005')
    (tmp_path / 'online-000000005' / checkpoints.METADATA).write_text('{}')
    kept = Checkpoints(tmp_path, 2)
    with caplog.at_level(logging.WARNING):
        metadata, _ = kept.newest('agents')
    assert metadata == {'name': 'offline-000000005'}
    assert 'online-000000005: its run.json is cut' in caplog.text
    (tmp_path / 'offline-000000005' / checkpoints.METADATA).unlink()
    with pytest.raises(CheckpointError, match='none of its checkpoints is whole'):
        kept.newest('agents')


def test_an_unfinished_checkpoint_is_not_taken_and_is_cleared_away(tmp_path):
    save_all(tmp_path, 2, 'offline-000000005')
    unfinished = tmp_path / f'{checkpoints.UNFINISHED}-offline-000000010'
    unfinished.mkdir()
    (unfinished / checkpoints.DIGEST).write_text(json.dumps({}))
    assert checkpoints.find(tmp_path).name == 'offline-000000005'
    assert Checkpoints(tmp_path, 2).newest('agents')[0] == {'name': 'offline-000000005'}
    assert names(tmp_path) == ['offline-000000005']
    assert Checkpoints(tmp_path / 'none', 2).newest('agents') is None


@pytest.mark.parametrize('is_killed', [True, False])
def test_a_checkpoint_that_is_being_replaced_is_not_lost(tmp_path, monkeypatch, is_killed):
    """The save of the same step ends between the old one's leave and the new one's arrival."""
    name = 'offline-000000005'
    save_all(tmp_path, 2, name)
    rename = pathlib.Path.rename

    def stop_before_the_last(path, target):
        if path.name == f'{checkpoints.UNFINISHED}-{name}':
            raise OSError('No space left on device')
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'rename', stop_before_the_last)
        if is_killed:  # nothing is cleared away after a kill
            patch.setattr(checkpoints.shutil, 'rmtree', lambda *_, **__: None)
            patch.setattr(checkpoints, '_settle', lambda *_: None)
        with pytest.raises(OSError, match='No space'):
            checkpoints.save(tmp_path / name, {'agents': checkpoints.flatten(TREE)}, {})
    assert (tmp_path / name).exists() is not is_killed
    assert Checkpoints(tmp_path, 2).newest('agents')[0] == {'name': name}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_save_that_fails_is_a_warning_and_leaves_the_last_good_one(tmp_path, caplog):
    save_all(tmp_path, 2, 'offline-000000005')
    kept = Checkpoints(tmp_path, 2)
    (tmp_path / f'{checkpoints.UNFINISHED}-offline-000000010').write_text('in the way')
    with caplog.at_level(logging.WARNING):
        kept.save('offline-000000010', {'agents': checkpoints.flatten(TREE)}, {})
        kept.wait()
    assert 'offline-000000010: could not be saved' in caplog.text
    assert kept.newest('agents')[0] == {'name': 'offline-000000005'}


HOSTILE = (
    b'',
    b'null',
    b'[]',
    b'{}',
    b'7',
    b'"x"',
    b'{"agents/x": 3}',
    b'\xff\xfe',
    b'[' * 100_000,
)


def sign(directory):
    """Makes the digest that of the files as they are."""
    files = [path for path in directory.rglob('*') if path.is_file()]
    digest = {
        str(path.relative_to(directory)): checkpoints._digest(path)
        for path in files
        if path.name != checkpoints.DIGEST
    }
    (directory / checkpoints.DIGEST).write_text(json.dumps(digest))


def mutate(directory, rng):
    """Does something to a checkpoint; tells whether its digest was made to agree."""
    files = sorted(path for path in directory.rglob('*') if path.is_file())
    path = files[rng.integers(len(files))]
    whole = path.read_bytes()
    match rng.integers(7):
        case 0:
            path.write_bytes(whole[: rng.integers(len(whole) + 1)])
        case 1:
            damaged = bytearray(whole or b'0')
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
        case 2:
            path.write_bytes(HOSTILE[rng.integers(len(HOSTILE))])
        case 3:
            path.unlink()
        case 4:
            path.unlink()
            os.mkfifo(path)
        case 5:
            path.unlink()
            path.symlink_to(('/dev/zero', '/nowhere', path.parent)[rng.integers(3)])
        case 6:
            path.write_bytes(files[rng.integers(len(files))].read_bytes())
    if rng.integers(2) and path.name != checkpoints.DIGEST:
        sign(directory)
        return True
    return False


@pytest.mark.parametrize('content', ['{}', '[]', '7'])
def test_a_whole_checkpoint_that_is_of_no_run_is_refused(tmp_path, content):
    whole = write(tmp_path / 'whole')
    (whole / checkpoints.METADATA).write_text(content)
    sign(whole)
    with pytest.raises(CheckpointError):
        read_metadata(whole)


def test_a_hostile_checkpoint_is_refused_or_is_what_was_saved(tmp_path):
    """More of them: HOSTILE_CHECKPOINTS=1000 python -m pytest tests/test_checkpoints.py."""
    whole = write(tmp_path / 'whole')
    _, arrays = checkpoints.load(whole, 'agents', 'seeds')
    refused = []
    for seed in range(int(os.environ.get('HOSTILE_CHECKPOINTS', 60))):
        directory = tmp_path / 'hostile'
        shutil.copytree(whole, directory)
        is_signed = mutate(directory, np.random.default_rng(seed))
        try:
            found, found_arrays = checkpoints.load(directory, 'agents', 'seeds')
            checkpoints.check_metadata(found, {'env_name': str}, str(directory))
            checkpoints.unflatten({'agents': TREE}, found_arrays, str(directory))
        except CheckpointError as error:
            refused.append(str(error))
        else:
            for name, array in arrays.items() if not is_signed else ():
                np.testing.assert_array_equal(found_arrays[name], array, err_msg=f'{seed}')
        shutil.rmtree(directory)
    assert len(refused) > 30
    assert not [message for message in refused if '\n' in message]
