"""Data files as people have them: damaged, of another task, of other types. Bad ones are named."""

import logging

import gymnasium
import h5py
import numpy as np
import pytest
import toy_suite
from gymnasium.spaces import Box
from small_data import make_arrays, write

from envs import DatasetError
from envs.datasets import npz_dataset
from envs.layouts import to_unit

KEYS = tuple(make_arrays())


def load(path, env=None):
    dataset = npz_dataset('x', [path], env or toy_suite.Push())
    data = dataset.load(0)
    assert dataset.num_rows == (len(data['rewards']),)
    return data


def refuses(path, message):
    with pytest.raises(DatasetError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f'{path}: ')
    assert '\n' not in str(caught.value)


def with_value(key, value, dtype=np.float32):
    rows = make_arrays()[key].astype(dtype)
    rows[4] = value
    return {key: rows}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'rewards': None, 'actions': None}, 'has no actions, rewards; correct what wrote it'),
        ({'actions': np.zeros((6, 2))}, r'actions has shape \(6, 2\), Push needs \(R, 1\)'),
        ({'observations': np.float32(0)}, r'observations has shape \(\), Push needs \(R, 3\)'),
        ({'masks': np.ones(5)}, 'row counts differ: .*masks 5'),
        ({key: rows[:0] for key, rows in make_arrays().items()}, 'has no rows'),
        ({'terminals': np.zeros(6)}, 'terminals is True in 0 of 6 rows, but not in the last one'),
        ({'terminals': np.ones(6)}, 'terminals is True in 6 of 6 rows'),
        ({'terminals': np.arange(6) == 2}, 'terminals is True in 1 of 6 rows, but not in the last'),
        (with_value('terminals', 2, int), r'terminals is 2 in row 4, must be True or False'),
        (with_value('masks', 0.5), r'masks is 0.5 in row 4'),
        (with_value('masks', np.nan), 'masks is nan in row 4'),
        ({'actions': np.zeros((6, 1), 'U3')}, 'actions is of type <U3, Push needs numbers'),
        ({'actions': np.zeros((6, 1), object)}, 'actions is of type object'),
        ({'rewards': np.zeros(6, complex)}, 'rewards is of type complex128'),
        (with_value('observations', np.nan), 'observations is not finite in row 4'),
        (with_value('observations', 1e300, float), r'observations is not finite in row 4 \(as fl'),
        (with_value('rewards', -np.inf), 'rewards is not finite in row 4'),
        (
            with_value('actions', 2.01),
            r'actions\[4, 0\] is 2.01, outside of the bounds -2 to 2',
        ),
    ],
)
def test_what_is_no_data_is_an_error_that_names_it(tmp_path, changes, message):
    refuses(write(tmp_path / 'x.npz', **changes), message)


@pytest.mark.parametrize('dtype', ['<f2', '>f4', '<f8', '<i1', '>i8'])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_numbers_of_other_types_become_the_same_float32(tmp_path, dtype, save):
    arrays = {key: np.asfortranarray(np.round(rows), dtype) for key, rows in make_arrays().items()}
    save(tmp_path / 'x.npz', **arrays, infos=np.array([{'more': 1}] * 6, object))
    data = load(tmp_path / 'x.npz')
    final = arrays['terminals'] == 1
    np.testing.assert_array_equal(data['observations'], arrays['observations'])
    np.testing.assert_array_equal(data['rewards'], np.where(final, 0, arrays['rewards']))
    np.testing.assert_array_equal(data['masks'], arrays['masks'])
    np.testing.assert_array_equal(data['terminals'], final)
    actions = np.where(final[:, None], 0, arrays['actions'])
    np.testing.assert_array_equal(data['actions'], to_unit(actions, *np.float32([[-2], [2]])))
    assert {key: rows.dtype.str for key, rows in data.items()} == {
        **dict.fromkeys(KEYS, '<f4'),
        'terminals': '|b1',
    }


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (lambda whole: b'', 'cut off or damaged .not a zip file'),
        (lambda whole: b'1, 2, 3\n', 'cut off or damaged .not a zip file'),
        (lambda whole: whole[:-100], 'cut off or damaged .not a zip file'),
        (lambda whole: whole[:230] + b'x' + whole[231:], 'cut off or damaged .*CRC'),
        (None, 'is missing; put it there, or download or'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = write(tmp_path / 'x.npz')
    whole = path.read_bytes()
    path.unlink()
    if content:
        path.write_bytes(content(whole))
    refuses(path, message)


def test_without_masks_no_state_is_final(tmp_path):
    path = tmp_path / 'x.npz'
    assert load(write(path))['masks'].tolist() == [1, 0, 1, 1, 1, 1]
    assert load(write(path, masks=None))['masks'].tolist() == [1] * 6


def test_a_directory_in_a_files_place_is_named(tmp_path):
    refuses(tmp_path, r'cannot be read, .* \(Is a directory\)')


class Seeing(toy_suite.Push):
    """Observes a state, which the environment gives in doubles, and an image."""

    observation_space = gymnasium.spaces.Dict(
        {
            'state': Box(-np.inf, np.inf, (2,), np.float64),
            'image': Box(0, 255, (4, 5, 3), np.uint8),
        }
    )


def test_observations_may_be_several_arrays_of_any_shape(tmp_path):
    rng, arrays = np.random.default_rng(0), make_arrays()
    del arrays['observations']
    state, image = rng.normal(size=(6, 2)), rng.integers(0, 255, (6, 4, 5, 3), np.uint8)
    path = tmp_path / 'x.npz'
    parts = {'observations/state': state, 'observations/image': image}
    np.savez(path, **arrays, **parts)
    found = load(path, Seeing())['observations']
    assert found.keys() == {'state', 'image'}
    assert (found['state'].dtype, found['image'].dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(found['state'], state.astype(np.float32))
    np.testing.assert_array_equal(found['image'], image)
    np.savez(path, **arrays, **parts | {'observations/image': image / 255})
    with pytest.raises(DatasetError, match='observations/image is of type float64, Seeing needs'):
        load(path, Seeing())
    np.savez(path, **make_arrays())
    with pytest.raises(DatasetError, match='has no observations/image, observations/state'):
        load(path, Seeing())


# ---- rows that are transitions ------------------------------------------------------------------


def episodes(number=4, length=5, solved=True):
    """Returns episodes in a row for each state; with or without success in the even ones."""
    rng, parts = np.random.default_rng(0), []
    for episode in range(number):
        success = solved and episode % 2 == 0
        steps = length - (episode == 0)
        final = np.arange(steps + 1) == steps
        last = np.arange(steps + 1) == steps - 1
        parts.append(
            {
                'observations': rng.normal(size=(steps + 1, 3)).astype(np.float32),
                'actions': np.where(final[:, None], 0, rng.uniform(-2, 2, (steps + 1, 1))),
                'rewards': np.where(final, 0.0, (success & last) - 1.0),
                'masks': np.where(success & last, 0.0, 1.0),
                'terminals': final,
            }
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def transitions(arrays, *keys):
    """Returns the same in a row for each transition, with the arrays that are named."""
    rows = np.flatnonzero(~arrays['terminals'])
    end, solved = arrays['terminals'][rows + 1], arrays['masks'][rows] == 0
    flags = {
        'next_observations': arrays['observations'][rows + 1],
        'masks': arrays['masks'][rows],
        'terminals': solved,  # as in D4RL
        'ends': end,
        'timeouts': end & ~solved,
        'dones': end,
    }
    found = {key: arrays[key][rows] for key in ('observations', 'actions', 'rewards')}
    found |= {key: flags[key] for key in keys}
    if 'ends' in found:
        found['terminals'] = found.pop('ends')
    return found


@pytest.mark.parametrize(
    'keys',
    [
        ('terminals', 'timeouts'),
        ('terminals',),  # where the next row begins elsewhere, an episode ends
        ('dones', 'timeouts'),
        ('ends', 'timeouts'),
        ('terminals', 'dones'),
        ('ends', 'masks'),
        ('dones', 'masks'),
        ('masks',),
    ],
)
def test_a_row_for_each_transition_is_read_with_the_last_of_each_episode(tmp_path, keys):
    arrays = episodes()
    np.savez(tmp_path / 'a.npz', **arrays)
    np.savez(tmp_path / 'b.npz', **transitions(arrays, 'next_observations', *keys))
    expected, found = load(tmp_path / 'a.npz'), load(tmp_path / 'b.npz')
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    assert (found['masks'] == 0).sum() == 2


def test_of_transitions_each_part_of_an_observation_has_its_next_one(tmp_path):
    arrays = episodes()
    parts = {'observations/state': arrays['observations'][:, :2]}
    parts['observations/image'] = np.arange(len(arrays['rewards']) * 60).reshape(-1, 4, 5, 3) % 256
    parts['observations/image'] = parts['observations/image'].astype(np.uint8)
    rows = np.flatnonzero(~arrays['terminals'])
    np.savez(
        tmp_path / 'x.npz',
        **{key: arrays[key][rows] for key in ('actions', 'rewards', 'masks')},
        **{key: values[rows] for key, values in parts.items()},
        **{f'next_{key}': values[rows + 1] for key, values in parts.items()},
    )
    data = load(tmp_path / 'x.npz', Seeing())
    np.testing.assert_array_equal(data['terminals'], arrays['terminals'])
    for key, values in data['observations'].items():
        np.testing.assert_array_equal(values, parts[f'observations/{key}'])


def test_dones_alone_end_the_task_and_no_flags_cut_it_off(tmp_path):
    arrays, path = episodes(), tmp_path / 'x.npz'
    np.savez(path, **transitions(arrays, 'next_observations', 'dones'))
    assert (load(path)['masks'] == 0).sum() == 4
    np.savez(path, **transitions(arrays, 'next_observations'))
    data = load(path)
    assert data['masks'].all()
    np.testing.assert_array_equal(data['terminals'], arrays['terminals'])


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (('dones',), 'has dones, so each row is a transition, .*; add next_observations, or'),
        (('ends', 'masks'), 'masks is 0 exactly in the rows that terminals marks'),
    ],
)
def test_transitions_without_their_next_states_are_refused(tmp_path, keys, message):
    arrays = transitions(episodes(solved=True), *keys)
    np.savez(tmp_path / 'x.npz', **{key: rows[:14] for key, rows in arrays.items()})
    refuses(tmp_path / 'x.npz', message)


@pytest.mark.parametrize('keys', [('terminals', 'timeouts'), ('masks', 'timeouts')])
@pytest.mark.parametrize('kind', [bool, np.float32])
def test_files_of_d4rl_lose_what_leads_nowhere_and_keep_what_ends_the_task(tmp_path, keys, kind):
    """Two of four episodes end with success, two are cut off, the last of them without a flag."""
    whole = episodes()
    arrays = transitions(whole, *keys)
    arrays['timeouts'][-1] = False
    arrays |= {key: arrays[key].astype(kind) for key in keys}
    np.savez(tmp_path / 'x.npz', **arrays)
    data, starts = load(tmp_path / 'x.npz'), [0, 5, 11, 17]
    ends = np.flatnonzero(data['terminals'])
    assert ends.tolist() == [4, 9, 15, 20]  # of 4, 4, 5 and 4 transitions
    for start, first, end in zip(starts, [0, *ends[:-1] + 1], ends, strict=True):
        states = whole['observations'][start : start + end - first + 1]
        solved = data['masks'][end - 1] == 0
        np.testing.assert_array_equal(data['observations'][first:end], states[:-1])
        np.testing.assert_array_equal(data['observations'][end], states[-2 if solved else -1])
    assert np.flatnonzero(data['masks'] == 0).tolist() == [3, 14]
    assert np.flatnonzero(data['rewards'][~data['terminals']] == 0).tolist() == [3, 12]


def test_a_task_may_end_at_the_step_that_would_cut_it_off(tmp_path):
    arrays = transitions(episodes(), 'next_observations', 'terminals', 'timeouts')
    arrays['timeouts'] |= arrays['terminals'] & (np.arange(len(arrays['rewards'])) < 5)
    np.savez(tmp_path / 'x.npz', **arrays)
    assert (load(tmp_path / 'x.npz')['masks'] == 0).sum() == 2


def test_other_layouts_are_named(tmp_path):
    arrays = transitions(episodes(), 'terminals', 'timeouts')
    arrays['observations'] = np.zeros((len(arrays['actions']) + 4, 3))
    np.savez(tmp_path / 'x.npz', **arrays)
    refuses(
        tmp_path / 'x.npz',
        'observations 23, actions 19, .* as in Minari, add',
    )
    with h5py.File(tmp_path / 'x.npz', 'w') as file:
        file['observations'] = arrays['observations']
    refuses(tmp_path / 'x.npz', r'is an HDF5 file, as those of D4RL and Minari; write its .*savez')


# ---- what looks wrong ---------------------------------------------------------------------------


def warnings(tmp_path, caplog, arrays):
    caplog.clear()
    np.savez(tmp_path / 'x.npz', **arrays)
    with caplog.at_level(logging.WARNING):
        load(tmp_path / 'x.npz')
        load(tmp_path / 'x.npz')  # each is said once
    return caplog.messages


def test_what_looks_inverted_is_warned_of(tmp_path, caplog):
    arrays = episodes()
    assert warnings(tmp_path, caplog, arrays) == []
    (said,) = warnings(tmp_path, caplog, arrays | {'masks': 1 - arrays['masks']})
    assert 'masks is 0 in 100% of the rows inside episodes' in said
    (said,) = warnings(tmp_path, caplog, arrays | {'rewards': -1 - arrays['rewards']})
    assert 'all rewards of actions that end the task (at most -1) are below all others (' in said


def test_rewards_in_final_rows_that_are_larger_than_all_others_are_warned_of(tmp_path, caplog):
    arrays = transitions(episodes(), 'ends')
    arrays = {key: rows[:14] for key, rows in arrays.items()}
    (said,) = warnings(tmp_path, caplog, arrays)
    assert 'the largest rewards are in rows that terminals marks' in said
