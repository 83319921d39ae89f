"""Checkpoints are whole, or they are not taken."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import checkpoints
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


def test_a_save_that_fails_is_a_warning_and_leaves_the_last_good_one(tmp_path, caplog):
    save_all(tmp_path, 2, 'offline-000000005')
    kept = Checkpoints(tmp_path, 2)
    (tmp_path / f'{checkpoints.UNFINISHED}-offline-000000010').write_text('in the way')
    with caplog.at_level(logging.WARNING):
        kept.save('offline-000000010', {'agents': checkpoints.flatten(TREE)}, {})
        kept.wait()
    assert 'offline-000000010: could not be saved' in caplog.text
    assert kept.newest('agents')[0] == {'name': 'offline-000000005'}
