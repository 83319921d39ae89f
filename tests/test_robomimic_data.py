"""Robomimic's files: where they come from, what is made of their rows, bad ones. No simulator."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
from robomimic import DATASET_REGISTRY

import envs
from envs import DatasetError, find_task
from envs.collect import collect
from envs.downloads import hash_file
from envs.layouts import ACTION_LIMIT
from envs.robomimic.data import public_path
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
        ({'env_args': None}, 'data has no env_args'),
        ({'env_args': ['Lift']}, 'its env_args do not describe an environment'),
        ({'env_args': WITHOUT_ROBOTS}, r"do not describe an environment \(KeyError\('robots'\)\)"),
        (
            {'env_args': default_env_args(TASK) | {'type': 2}},
            'have type 2, not the type',
        ),
        (
            {'env_args': default_env_args(parse('lift-ph-low_dim'))},
            'is data of Lift, but can-mh-low_dim is PickPlaceCan; replace it with the file',
        ),
        ({'demos': []}, 'has no demonstrations'),
        ({'demos': make_demos([()])}, 'has no demonstrations'),
        (changed('obs/object', None), 'demo_1 has no obs/object'),
        (changed('next_obs/object', None), 'demo_1 has no next_obs/object'),
        (changed('actions', np.zeros((3, 7))), 'demo_1: row counts differ: rewards 2, actions 3'),
        (changed('obs/object', np.zeros((2, 10))), r'demo_1: obs/object has shape \(2, 10\), can'),
        (changed('actions', np.zeros((2, 6))), r'demo_1: actions has shape \(2, 6\).*\(T, 7\)'),
        (changed('rewards', np.float64(1)), r'demo_1: rewards has shape \(\)'),
        (changed('rewards', np.array([0, 0.3])), 'demo_1: rewards are not all 0 or 1; use'),
        (changed('actions', np.full((2, 7), b'x')), r'demo_1: actions has no numbers \(\|S1\)'),
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


@pytest.mark.parametrize(
    ('key', 'rows', 'message'),
    [
        ('obs/object', np.full((2, 14), np.nan), 'observations are not finite in row 0'),
        ('actions', np.array([[0] * 7, [1e300] * 7]), 'actions are not finite in row 1'),
    ],
)
def test_numbers_that_are_not_finite_are_an_error(tmp_path, key, rows, message):
    path = write(tmp_path, **changed(key, rows))
    dataset = make_dataset(tmp_path)
    with pytest.raises(DatasetError, match=f'^{path}: demo_1: {message}; delete it and download'):
        dataset.load(0)


@pytest.mark.parametrize('damage', ['cut off', 'text', 'empty'])
def test_a_damaged_file_is_an_error(tmp_path, damage):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes({'cut off': content[:-500], 'text': b'hello', 'empty': b''}[damage])
    for make in (make_dataset, lambda directory: find_env_args(directory)):
        with pytest.raises(DatasetError, match=f'^{path}: .*; delete it and download it again$'):
            make(tmp_path)


def find_env_args(directory, name=NAME):
    from envs.robomimic import data

    return data.find_env_args(parse(name), directory)


def test_the_environment_is_that_of_the_file_or_else_the_public_one(tmp_path):
    public = find_env_args(tmp_path)
    assert public['env_name'] == 'PickPlaceCan'
    assert public['env_kwargs']['robots'] == ['Panda']
    assert public['env_kwargs']['control_freq'] == 20
    assert public['env_kwargs']['controller_configs']['body_parts']['right']['type'] == 'OSC_POSE'
    other = default_env_args(TASK)
    other['env_kwargs']['control_freq'] = 10
    write(tmp_path, env_args=other)
    assert find_env_args(tmp_path) == other


def test_the_directory_is_the_options_or_the_environments_or_in_home(tmp_path, monkeypatch):
    suite = find_task(NAME).suite
    monkeypatch.delenv('ROBOMIMIC_DATASET_DIR', raising=False)
    assert suite.dataset_dir == '~/.robomimic'
    monkeypatch.setenv('ROBOMIMIC_DATASET_DIR', str(tmp_path / 'one'))
    one, other = write(tmp_path / 'one'), write(tmp_path / 'other')
    assert envs.make_dataset(NAME).paths == (one,)
    assert make_dataset(tmp_path / 'other').paths == (other,)


@contextlib.contextmanager
def serving(monkeypatch, body, status=200):
    """A local server of one file; yields what it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv('ROBOMIMIC_DATASET_URL', f'http://127.0.0.1:{server.server_port}/v1.5')
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def body(tmp_path):
    return write(tmp_path / 'served').read_bytes()


def test_missing_data_is_downloaded_once(tmp_path, monkeypatch, body):
    with serving(monkeypatch, body) as asked:
        assert make_dataset(tmp_path / 'new').provenance['source'] == 'downloaded'
        assert make_dataset(tmp_path / 'new', source='download').provenance['source'] == 'on disk'
    assert asked == ['/v1.5/can/mh/low_dim_v15.hdf5']
    path = public_path(TASK, tmp_path / 'new')
    assert path.read_bytes() == body
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ('answer', 'message'),
    [({'status': 404}, 'HTTP Error 404'), ({'body': b'x' * 5000}, 'Unable to .*open file')],
)
def test_a_failed_download_names_the_place_and_a_command(
    tmp_path, monkeypatch, body, answer, message
):
    path = public_path(TASK, tmp_path)
    command = '-m envs.collect --env_name=can-scripted-low_dim --num_episodes=200 '
    command += f'--save_dir={tmp_path}'
    with (
        serving(monkeypatch, **{'body': body} | answer),
        pytest.raises(UserError, match=f'^http.*{message}.*copy the file to {path} .*{command}$'),
    ):
        make_dataset(tmp_path)
    assert list(path.parent.iterdir()) == []


def test_a_download_of_another_environment_asks_to_start_again(tmp_path, monkeypatch):
    other = default_env_args(TASK)
    other['env_kwargs']['control_freq'] = 10
    body = write(tmp_path / 'served', env_args=other).read_bytes()
    with serving(monkeypatch, body):
        with pytest.raises(UserError, match='downloaded, but its environment differs'):
            make_dataset(tmp_path / 'new')
        assert make_dataset(tmp_path / 'new').provenance['source'] == 'on disk'


def test_humans_are_not_scripted_and_scripts_not_published(tmp_path):
    with pytest.raises(UserError, match='can-mh-low_dim are human demonstrations; use --env_'):
        make_dataset(tmp_path, source='collect')
    name = 'can-scripted-low_dim'
    command = f'-m envs.collect --env_name={name} --num_episodes=200 --save_dir={tmp_path}'
    for source in ('auto', 'download'):
        with pytest.raises(DatasetError, match=f'^{tmp_path}/{name}.hdf5: not found.*{command}$'):
            make_dataset(tmp_path, name, source=source)


@pytest.mark.parametrize('folder', ['', 'can-scripted-low_dim'])
def test_files_of_a_collection_are_found_in_the_order_of_their_numbers(tmp_path, folder):
    name = 'can-scripted-low_dim'
    (tmp_path / folder).mkdir(exist_ok=True)
    for number in (1, 0):
        path = tmp_path / folder / f'{name}-{number:03d}.hdf5'
        write(tmp_path / 'other', make_demos([(0,) * (number + 1)])).replace(path)
    path.with_name(f'{name}-val.hdf5').touch()
    dataset = make_dataset(tmp_path, name)
    assert [path.name[-8:] for path in dataset.paths] == ['000.hdf5', '001.hdf5']
    assert dataset.num_rows == (2, 3)
    with pytest.raises(DatasetError, match='it has no manifest'):
        make_dataset(tmp_path, name, source='collect')


@pytest.mark.parametrize('end', ['.hdf5', '-val.hdf5', '-000.hdf5', ''])
def test_a_collection_overwrites_nothing(tmp_path, end):
    path = tmp_path / f'can-scripted-low_dim{end}'
    path.touch()
    with pytest.raises(UserError, match=f'{path} exists: delete it or choose another --save'):
        collect('can-scripted-low_dim', 1, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_importing_envs_imports_no_simulator():
    code = 'import envs, sys; print({"robosuite", "h5py", "ogbench", "numba"} & set(sys.modules))'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout == 'set()\n'
