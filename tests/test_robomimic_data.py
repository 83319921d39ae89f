"""Robomimic's files: where they come from, what is made of their rows, bad ones. No simulator."""

import json
from functools import partial

import h5py
import numpy as np
import pytest
from robomimic import DATASET_REGISTRY

import envs
from envs import DatasetError, find_task
from envs.downloads import hash_file
from envs.layouts import ACTION_LIMIT
from envs.robomimic.data import find_env_args, public_path
from envs.robomimic.files import default_env_args
from envs.robomimic.names import HUMAN, LIMITS, parse
from utils.errors import UserError

NAME = 'can-mh-low_dim'
TASK = parse(NAME)


@pytest.mark.parametrize('task', LIMITS)
@pytest.mark.parametrize('kind', HUMAN)
def test_names_and_files_are_those_of_robomimic(task, kind, tmp_path):
    found = find_task(f'{task}-{kind}-low_dim')
    assert found.suite.name == 'robomimic'
    assert found.dataset == found.env_name
    theirs = DATASET_REGISTRY[task][kind]['low_dim']['url'].partition('rt_benchmark/')[2]
    place = public_path(found.details, tmp_path).relative_to(tmp_path)
    assert str(place) == theirs.replace('v141', 'v15')


@pytest.mark.parametrize('name', ['lift-mg-low_dim', 'door-mh-low_dim', 'lift-mh', 'lift-mh-image'])
def test_unknown_name_is_an_error_that_lists_what_exists(name):
    known = r'\{lift,can,square\}-\{mh,ph,scripted\}-low_dim'
    with pytest.raises(UserError, match=f'^--env_name={name}: unknown; there are .*{known}'):
        find_task(name)
    with pytest.raises(UserError, match=r'can be collected; there are .*-scripted-low_dim'):
        envs.registry.find_collection('lift-mh-low_dim')


def make_demos(rewards=((0, 0, 0, 1, 1), (0, 0)), task=TASK, seed=0):
    """Returns random demonstrations with these rewards; some actions are out of bounds."""
    rng = np.random.default_rng(seed)
    demos = []
    for rows in rewards:
        demo = {'actions': rng.uniform(-1.2, 1.2, (len(rows), 7)), 'rewards': np.float64(rows)}
        demo['dones'] = np.int64(rows)
        for key, width in task.widths.items():
            states = rng.normal(size=(len(rows) + 1, width))
            demo[f'obs/{key}'], demo[f'next_obs/{key}'] = states[:-1], states[1:]
        demo['obs/robot0_joint_pos'] = rng.normal(size=(len(rows), 7))
        demos.append(demo)
    return demos


def write(directory, demos=None, env_args=(), task=TASK):
    """Writes a file of demonstrations where it belongs; returns its path."""
    path = public_path(task, directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, 'w') as file:
        data = file.create_group('data')
        if env_args is not None:
            data.attrs['env_args'] = json.dumps(env_args or default_env_args(task))
        for number, demo in enumerate(make_demos(task=task) if demos is None else demos):
            data.create_group(f'demo_{number}')
            for key, rows in demo.items():
                data[f'demo_{number}/{key}'] = rows
    return path


def make_dataset(directory, name=NAME, source='auto', **arguments):
    return envs.make_dataset(name, source=source, robomimic_dataset_dir=str(directory), **arguments)


def test_rows_are_stored_once_in_the_order_of_keys(tmp_path):
    demos = make_demos()
    path = write(tmp_path, demos)
    dataset = make_dataset(tmp_path)
    assert (dataset.name, dataset.num_rows) == (NAME, (6 + 3,))
    assert dataset.provenance == {
        'source': 'on disk',
        'directory': str(path.parent),
        'files': ['low_dim_v15.hdf5'],
        'sha256': hash_file(path),
    }
    data = dataset.load(0)
    keys = ('robot0_eef_pos', 'robot0_eef_quat', 'robot0_gripper_qpos', 'object')
    first = np.concatenate([demos[0][f'obs/{key}'] for key in keys], axis=1)
    last = np.concatenate([demos[0][f'next_obs/{key}'][-1] for key in keys])
    np.testing.assert_array_equal(data['observations'][:5], first.astype(np.float32))
    np.testing.assert_array_equal(data['observations'][5], last.astype(np.float32))
    assert data['observations'].shape == (9, 23)
    limit = np.float32(ACTION_LIMIT)
    np.testing.assert_array_equal(
        data['actions'][6:8], np.float32(demos[1]['actions']).clip(-limit, limit)
    )
    assert data['rewards'][:5].tolist() == [-1, -1, -1, 0, 0]
    assert data['masks'][:5].tolist() == [1, 1, 1, 0, 0]
    assert data['masks'][6:8].tolist() == [1, 1]  # cut off, not solved
    assert np.flatnonzero(data['terminals']).tolist() == [5, 8]
    assert {key: rows.dtype for key, rows in data.items() if key != 'terminals'} == dict.fromkeys(
        ('observations', 'actions', 'rewards', 'masks'), np.float32
    )
    assert data['terminals'].dtype == bool


@pytest.mark.parametrize(
    ('rewards', 'kept'),
    [((0, 1, 1, 0, 0), 3), ((0, 0, 1, 0, 1), 3), ((1, 1), 2), ((1, 0), 1), ((0, 0, 0), 3)],
)
def test_rows_count_to_the_end_of_the_first_run_of_successes(tmp_path, rewards, kept):
    demos = make_demos([rewards])
    write(tmp_path, demos)
    dataset = make_dataset(tmp_path)
    data = dataset.load(0)
    assert dataset.num_rows == (kept + 1,) == (len(data['rewards']),)
    assert data['rewards'][:kept].tolist() == [reward - 1 for reward in rewards[:kept]]
    final = np.float32(demos[0]['next_obs/object'][kept - 1])
    np.testing.assert_array_equal(data['observations'][kept, 9:], final)


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    demos = make_demos([(0,)] * 12)
    write(tmp_path, demos)
    found = make_dataset(tmp_path).load(0)['observations'][::2, :3]
    expected = np.concatenate([demo['obs/robot0_eef_pos'] for demo in demos])
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def changed(key, rows):
    """Returns demonstrations of which the second has other rows under a key; None: it lacks it."""
    demos = make_demos()
    if rows is None:
        del demos[1][key]
    else:
        demos[1][key] = rows
    return {'demos': demos}


WITHOUT_ROBOTS = default_env_args(TASK) | {'env_kwargs': {}}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'env_args': None}, 'has no env_args'),
        ({'env_args': WITHOUT_ROBOTS}, r"has no env_args .* \(KeyError\('robots'\)\)"),
        (
            {'env_args': default_env_args(parse('lift-ph-low_dim'))},
            r'is data of Lift \(type 1\); can-mh-low_dim is PickPlaceCan',
        ),
        ({'demos': []}, 'has no demonstrations'),
        ({'demos': make_demos([()])}, 'has no demonstrations'),
        (changed('obs/object', None), 'demo_1 has no obs/object'),
        (changed('actions', np.zeros((3, 7))), r'demo_1: rewards is float64 \(2,\), .* \(3,\)'),
        (changed('actions', np.zeros((2, 6))), r'demo_1: actions is float64 \(2, 6\), .* \(2, 7\)'),
        (changed('rewards', np.array([0, 0.3])), 'demo_1: rewards are not all 0 or 1'),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_an_error(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(DatasetError, match=f'^{path}: .*{message}'):
        make_dataset(tmp_path)


def test_an_empty_demonstration_among_others_is_left_out(tmp_path, caplog):
    path = write(tmp_path, make_demos([(0, 1), (), (0, 0, 1)]))
    data = make_dataset(tmp_path).load(0)
    assert np.flatnonzero(data['terminals']).tolist() == [2, 6]
    assert f'{path}: demo_1 without rows; left out.' in caplog.messages


def test_a_damaged_file_is_an_error(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    for make in (make_dataset, partial(find_env_args, TASK)):
        with pytest.raises(DatasetError, match=f'^{path}: .*; delete it and download it again$'):
            make(tmp_path)


def test_the_environment_is_that_of_the_file_or_else_the_public_one(tmp_path):
    public = find_env_args(TASK, tmp_path)
    assert public['env_name'] == 'PickPlaceCan'
    assert public['env_kwargs']['robots'] == ['Panda']
    assert public['env_kwargs']['control_freq'] == 20
    assert public['env_kwargs']['controller_configs']['body_parts']['right']['type'] == 'OSC_POSE'
    other = default_env_args(TASK)
    other['env_kwargs']['control_freq'] = 10
    write(tmp_path, env_args=other)
    assert find_env_args(TASK, tmp_path) == other


def test_missing_data_is_downloaded_once(tmp_path, monkeypatch):
    path = write(tmp_path / 'mirror')
    monkeypatch.setenv('ROBOMIMIC_DATASET_URL', (tmp_path / 'mirror').as_uri())
    assert make_dataset(tmp_path / 'new').provenance['source'] == 'downloaded'
    assert make_dataset(tmp_path / 'new', source='download').provenance['source'] == 'on disk'
    assert public_path(TASK, tmp_path / 'new').read_bytes() == path.read_bytes()


def test_a_failed_download_names_the_place_and_a_command(tmp_path, monkeypatch):
    (served := public_path(TASK, tmp_path / 'mirror')).parent.mkdir(parents=True)
    served.write_bytes(b'x' * 5000)
    monkeypatch.setenv('ROBOMIMIC_DATASET_URL', (tmp_path / 'mirror').as_uri())
    path = public_path(TASK, tmp_path)
    command = '--env_name=can-scripted-low_dim --dataset_source=collect'
    with pytest.raises(
        UserError, match=f'^file.*Unable to .*open file.*copy the file to {path} .*{command}$'
    ):
        make_dataset(tmp_path)
    assert list(path.parent.iterdir()) == []


def test_humans_are_not_scripted_and_scripts_not_published(tmp_path):
    with pytest.raises(UserError, match='can-mh-low_dim are human demonstrations'):
        make_dataset(tmp_path, source='collect')
    name = 'can-scripted-low_dim'
    command = 'collect it: --dataset_source=collect'
    for source in ('auto', 'download'):
        with pytest.raises(DatasetError, match=f'^{tmp_path}/{name}.hdf5: not found.*{command}$'):
            make_dataset(tmp_path, name, source=source)
