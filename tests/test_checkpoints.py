"""Checkpoints are whole, or they are not taken."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import checkpoints
from training.checkpoints import CheckpointError, Checkpoints

TREE = {'params': jnp.arange(40.0), 'rng': jax.random.PRNGKey(3), 'count': jnp.int32(7)}


def write(path, value=0.0, metadata=None):
    arrays = checkpoints.flatten({'agents': TREE, 'seeds': {'x': np.full(3, value)}})
    checkpoints.save(path, arrays, metadata or {'env_name': 'cube'})
    return path


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    path = write(tmp_path / 'c.npz', 2.5)
    metadata, arrays = checkpoints.load(path)
    assert metadata == {'env_name': 'cube'}
    restored = checkpoints.unflatten({'agents': TREE}, arrays, 'c')['agents']
    jax.tree.map(np.testing.assert_array_equal, restored, TREE)
    assert restored['rng'].dtype == TREE['rng'].dtype
    np.testing.assert_array_equal(arrays['seeds/x'], [2.5] * 3)
    assert 'seeds/x' not in checkpoints.load(path, 'agents')[1]


def test_a_checkpoint_of_other_shapes_or_names_does_not_fit(tmp_path):
    _, arrays = checkpoints.load(write(tmp_path / 'c.npz'), 'agents')
    for wrong, message in (
        ({'params': jnp.zeros(5)}, r'c: does not fit .* agents/params is float32\(40,\), needed'),
        ({'more': jnp.zeros(1)}, 'c: does not fit this agent: it has no agents/more'),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoints.unflatten({'agents': TREE | wrong}, arrays, 'c')


@pytest.mark.parametrize('damage', ['flipped', 'cut'])
def test_a_damaged_checkpoint_is_refused_or_read_as_it_was(tmp_path, damage):
    path = write(tmp_path / 'c.npz')
    whole, rng, messages = path.read_bytes(), np.random.default_rng(0), []
    template = {'agents': TREE, 'seeds': {'x': np.zeros(3)}}
    for position in rng.integers(len(whole), size=60):
        content = bytearray(whole)
        if damage == 'cut':
            content = content[:position]
        else:
            content[position] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            _, arrays = checkpoints.load(path)
            found = checkpoints.unflatten(template, arrays, f'{path}')
        except CheckpointError as error:
            messages.append(str(error))
        else:
            jax.tree.map(np.testing.assert_array_equal, found, template)
    assert len(messages) == 60 if damage == 'cut' else len(messages) > 30
    assert all(message.startswith(f'{path}: ') and '\n' not in message for message in messages)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save_all(folder, keep, *found):
    kept = Checkpoints(folder, keep)
    for name in found:
        kept.save(name, checkpoints.flatten({'agents': TREE}), {'name': name})
    kept.close()


def test_a_run_a_checkpoint_and_its_name_without_suffix_are_found(tmp_path):
    folder = tmp_path / 'run' / 'checkpoints'
    folder.parent.mkdir()
    save_all(folder, 2, 'offline-000000005', 'online-000000005')
    for path in (folder.parent, folder, folder / 'online-000000005'):
        assert checkpoints.find(path) == folder / 'online-000000005.npz'
    assert checkpoints.load(folder / 'offline-000000005')[0] == {'name': 'offline-000000005'}


def test_the_newest_are_kept_and_the_end_of_the_offline_phase_with_them(tmp_path):
    save_all(tmp_path, 2, *(f'offline-{i:09d}' for i in (5, 10, 15)))
    assert names(tmp_path) == ['offline-000000010.npz', 'offline-000000015.npz']
    save_all(tmp_path, 2, *(f'online-{i:09d}' for i in (5, 10, 15)))
    assert names(tmp_path) == [
        'offline-000000015.npz',
        'online-000000010.npz',
        'online-000000015.npz',
    ]


def test_a_damaged_newest_is_named_and_the_one_before_it_used(tmp_path, caplog):
    save_all(tmp_path, 2, 'offline-000000005', 'online-000000005')
    newest = tmp_path / 'online-000000005.npz'
    newest.write_bytes(newest.read_bytes()[:-50])
    kept = Checkpoints(tmp_path, 2)
    with caplog.at_level(logging.WARNING):
        metadata, _ = kept.newest()
    assert metadata == {'name': 'offline-000000005'}
    assert f'{newest}: not a checkpoint, or damaged' in caplog.text
    (tmp_path / 'offline-000000005.npz').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'offline-\d+.npz: .* start a new run with --fresh'):
        kept.newest()


def test_an_unfinished_checkpoint_is_not_taken_and_is_cleared_away(tmp_path):
    save_all(tmp_path, 2, 'offline-000000005')
    whole = (tmp_path / 'offline-000000005.npz').read_bytes()
    (tmp_path / '.unfinished-offline-000000010.npz').write_bytes(whole[:-9])
    assert checkpoints.find(tmp_path).name == 'offline-000000005.npz'
    assert Checkpoints(tmp_path, 2).newest()[0] == {'name': 'offline-000000005'}
    assert names(tmp_path) == ['offline-000000005.npz']
    assert Checkpoints(tmp_path / 'none', 2).newest() is None
