"""Offline data: where it comes from, what it must look like, what is loaded."""

import contextlib
import dataclasses
import http.server
import json
import logging
import os
import shlex
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import mujoco
import numpy as np
import pytest
import small_data
import toy_suite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import envs
from envs import DatasetError, make_env
from envs.datasets import ACTION_LIMIT, find_files, read_manifest
from envs.npz import check_npz
from envs.ogbench.data import collect_command, row_shapes
from envs.ogbench.data import find_files as find_cubes
from utils.errors import UserError

NAME = 'cube-single-play-v0'
TASK = 'cube-single-play-singletask-task1-v0'


def make_arrays(rows=20, cubes=1, seed=0):
    """Random rows in two episodes, of the right sizes; some actions out of bounds."""
    rng = np.random.default_rng(seed)
    terminals = np.zeros(rows, bool)
    terminals[[rows // 2 - 1, rows - 1]] = True
    return {
        'observations': rng.normal(size=(rows, 19 + 9 * cubes)).astype(np.float32),
        'actions': rng.uniform(-1.2, 1.2, (rows, 5)).astype(np.float32),
        'terminals': terminals,
        'qpos': rng.normal(size=(rows, 14 + 7 * cubes)).astype(np.float32),
    }


def write(path, **changes):
    """Writes a valid file, apart from `changes`; an array changed to None is left out."""
    arrays = {**make_arrays(), **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: rows for key, rows in arrays.items() if rows is not None})
    return path


def make_dataset(env_name, directory, source='auto', **arguments):
    return envs.make_dataset(
        env_name, source=source, ogbench_dataset_dir=str(directory), **arguments
    )


@pytest.fixture(scope='module')
def single():
    return row_shapes(make_env(TASK))


def check_file(path, shapes):
    return check_npz(path, shapes, 'cube-single')


@contextlib.contextmanager
def serving(monkeypatch, body, length=None, status=200):
    """A local server that answers every request with `body` and yields the paths asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header('Content-Length', str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('OGBENCH_DATASET_URL', f'http://127.0.0.1:{server.server_port}/data')
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def test_rows_are_stored_once_and_actions_are_clipped(tmp_path):
    write(tmp_path / f'{NAME}.npz', **(arrays := make_arrays()))
    dataset = make_dataset(TASK, tmp_path)
    assert (dataset.name, len(dataset)) == (NAME, 1)
    data = dataset.load(0)
    np.testing.assert_array_equal(data['observations'], arrays['observations'])
    np.testing.assert_array_equal(data['terminals'], arrays['terminals'])
    limit = np.float32(ACTION_LIMIT)
    np.testing.assert_array_equal(data['actions'], arrays['actions'].clip(-limit, limit))
    assert np.abs(arrays['actions']).max() > 1
    assert {key: rows.dtype for key, rows in data.items()} == {
        'observations': np.float32,
        'actions': np.float32,
        'rewards': np.float32,
        'masks': np.float32,
        'terminals': bool,
    }
    assert {len(rows) for rows in data.values()} == {20}


def test_rewards_are_those_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr('envs.ogbench.data.RELABEL_ROWS', 7)
    env = make_env('cube-double-play-singletask-task2-v0')
    observation, _ = env.reset(seed=0)
    cubes = [env.unwrapped.data.joint(f'object_joint_{i}') for i in range(2)]
    goals = env.unwrapped.cur_task_info['goal_xyzs']
    places = goals + np.array([[[0.041, 0, 0]], [[0.039, 0, 0]]])  # just too far, just near enough
    rows, rewards = [], []
    for step in range(40):
        if step % 4 == 0:  # by turns no cube, one, the other, and both at their goals
            for i in range(2):
                cubes[i].qpos[:3] = places[step // 4 >> i & 1, i]
            mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)
        qpos = env.unwrapped.data.qpos.copy()
        action = env.action_space.sample()
        rows.append((observation, action, step == 39, qpos))
        observation, reward, *_ = env.step(action)
        rewards.append(reward)
    keys = ('observations', 'actions', 'terminals', 'qpos')
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    write(tmp_path / 'cube-double-play-v0.npz', **dict(zip(keys, columns, strict=True)))

    data = make_dataset('cube-double-play-singletask-task2-v0', tmp_path).load(0)
    np.testing.assert_array_equal(data['rewards'], rewards)
    np.testing.assert_array_equal(data['masks'], np.not_equal(rewards, 0))
    assert set(rewards) == {-2, -1, 0}
    sparse = make_dataset('cube-double-play-singletask-task2-v0', tmp_path, sparse=True).load(0)
    np.testing.assert_array_equal(sparse['rewards'], -np.not_equal(rewards, 0).astype(float))
    np.testing.assert_array_equal(sparse['masks'], data['masks'])


def test_loading_needs_little_more_memory_than_its_result(tmp_path):
    arrays = make_arrays(rows=300_000, cubes=3)
    write(tmp_path / 'cube-triple-play-v0.npz', **arrays, qvel=arrays['qpos'])
    dataset = make_dataset('cube-triple-play-singletask-task1-v0', tmp_path)
    tracemalloc.start()
    data = dataset.load(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * sum(rows.nbytes for rows in data.values())


@pytest.mark.parametrize('folder', ['', NAME])
def test_files_are_found_in_the_directory_and_in_one_of_their_name(tmp_path, folder):
    path = write(tmp_path / folder / f'{NAME}.npz')
    write(tmp_path / folder / f'{NAME}-val.npz')
    write(tmp_path / folder / 'cube-double-play-v0.npz')
    assert find_files(tmp_path, NAME) == [path]


def test_shards_are_read_one_by_one_in_the_order_of_their_numbers(tmp_path):
    name = 'cube-single-play-100m-v0'
    for shard in (2, 0, 3, 1):
        rows = make_arrays(seed=shard)
        number = f'{shard:04d}' if shard == 3 else f'{shard:03d}'
        write(tmp_path / name / f'{name}-{number}.npz', **rows)
        write(tmp_path / name / f'{name}-{number}-val.npz')
    dataset = make_dataset('cube-single-play-100m-singletask-task1-v0', tmp_path)
    assert [path.name[-8:-4] for path in dataset.paths] == ['-000', '-001', '-002', '0003']
    for shard, seed in enumerate(range(4)):
        expected = make_arrays(seed=seed)['observations']
        np.testing.assert_array_equal(dataset.load(shard)['observations'], expected)
    assert json.loads(json.dumps(dataset.provenance)) == dataset.provenance
    assert dataset.provenance['source'] == 'on disk'
    assert len(dataset.provenance['files']) == 4


def fingerprint(directory):
    return make_dataset(TASK, directory).fingerprint


def test_the_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path):
    path = write(tmp_path / 'here' / f'{NAME}.npz')
    write(tmp_path / 'there' / NAME / f'{NAME}-000.npz')
    first = fingerprint(tmp_path / 'here')
    assert fingerprint(tmp_path / 'there') == first
    changed = make_arrays()
    changed['actions'][3, 1] += 1e-6
    write(path, **changed)
    assert fingerprint(tmp_path / 'here') != first
    write(tmp_path / 'there' / NAME / f'{NAME}-001.npz')
    assert fingerprint(tmp_path / 'there') != first


def test_the_fingerprint_is_found_without_reading_the_data(tmp_path):
    path = write(tmp_path / f'{NAME}.npz')
    dataset = make_dataset(TASK, tmp_path)
    before = dataset.fingerprint
    content = bytearray(path.read_bytes())
    content[700] ^= 1  # damaged, which only a reader of the data notices
    path.write_bytes(content)
    same = dataclasses.replace(dataset)  # that has computed nothing yet
    assert same.fingerprint == before
    with pytest.raises(DatasetError, match='damaged'):
        same.load(0)


def with_bad_value(key, value):
    arrays = make_arrays()
    arrays[key][13, 2] = value
    return {key: arrays[key]}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'qpos': None, 'actions': None}, 'has no actions, qpos'),
        ({'terminals': np.zeros(20, bool)}, 'terminals is True nowhere'),
        ({'terminals': np.arange(20) == 9}, 'the last row is not terminal'),
        ({'actions': np.zeros((19, 5), np.float32)}, 'row counts differ: .*actions 19'),
        ({'actions': np.zeros((20, 6), np.float32)}, r'actions has shape \(20, 6\)'),
        ({'observations': np.zeros((20, 37), np.float32)}, r'observations has shape \(20, 37\)'),
        ({'qpos': np.zeros((20, 14), np.float32)}, r'qpos has shape \(20, 14\)'),
        ({'terminals': np.float32(1)}, r'terminals has shape \(\)'),
        ({key: rows[:0] for key, rows in make_arrays().items()}, 'has no rows'),
    ],
)
def test_misshapen_file_is_an_error(tmp_path, single, changes, message):
    path = write(tmp_path / 'data.npz', **changes)
    with pytest.raises(DatasetError, match=rf'{path}: {message}.*; delete it and download or'):
        check_file(path, single)


@pytest.mark.parametrize(
    ('key', 'value'), [('observations', np.nan), ('actions', -np.inf), ('qpos', np.inf)]
)
def test_numbers_that_are_not_finite_are_an_error(tmp_path, key, value):
    path = write(tmp_path / f'{NAME}.npz', **with_bad_value(key, value))
    dataset = make_dataset(TASK, tmp_path)
    with pytest.raises(DatasetError, match=rf'{path}: {key} is not finite in row 13 .*; delete it'):
        dataset.load(0)


def test_file_cut_off_is_an_error(tmp_path, single):
    path = write(tmp_path / 'data.npz')
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=rf'{path}: cannot be read, it may be cut off'):
        check_file(path, single)


def test_flipped_byte_is_an_error(tmp_path):
    path = write(tmp_path / f'{NAME}.npz')
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf'{path}: cannot be read, it may be .*damaged .*CRC'):
        make_dataset(TASK, tmp_path).load(0)


def test_unknown_source_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='source=guess: must be one of auto, download, collect'):
        make_dataset(TASK, tmp_path, source='guess')
    with pytest.raises(ValueError, match="num_episodes=5: only for source='collect'"):
        make_dataset(TASK, tmp_path, num_episodes=5)


def test_missing_data_is_downloaded_once(tmp_path, monkeypatch):
    body = write(tmp_path / 'served.npz').read_bytes()
    directory = tmp_path / 'new' / 'directory'
    with serving(monkeypatch, body) as asked:
        dataset = make_dataset(TASK, directory)
        assert dataset.provenance['source'] == 'downloaded'
        again = make_dataset(TASK, directory, source='download')
    assert again.provenance['source'] == 'on disk'
    assert asked == [f'/data/{NAME}.npz']
    assert (directory / f'{NAME}.npz').read_bytes() == body
    assert len(list(directory.iterdir())) == 1
    np.testing.assert_array_equal(dataset.load(0)['observations'], again.load(0)['observations'])


@pytest.mark.parametrize(
    ('answer', 'message'),
    [
        ({'status': 404}, r'HTTP Error 404'),
        ({}, 'not a zip file'),
    ],
)
def test_failed_download_says_what_to_run_and_leaves_nothing(
    tmp_path, monkeypatch, answer, message
):
    command = '-m envs.collect --env_name=cube-double-play-v0 --num_episodes=1000 --save_dir='
    with (
        serving(monkeypatch, b'x' * 5000, **answer),
        pytest.raises(
            UserError, match=rf'double.*{message}.*OGBENCH_DATASET_URL, .* {command}{tmp_path}$'
        ),
    ):
        make_dataset('cube-double-play-singletask-task2-v0', tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('cwd', ['root', 'elsewhere'])
def test_the_command_that_an_error_names_works_as_it_stands(tmp_path, monkeypatch, cwd):
    monkeypatch.chdir(Path(__file__).parents[1] if cwd == 'root' else tmp_path)
    monkeypatch.setenv('OGBENCH_DATASET_URL', 'file:///nowhere')
    directory = tmp_path / 'a place'
    with pytest.raises(UserError) as caught:
        make_dataset(TASK, directory)
    command = str(caught.value).partition('collect such data here: ')[2]
    assert ('.venv' in sys.executable and cwd == 'root') <= command.startswith('.venv/')
    command = command.replace('--num_episodes=1000', '--num_episodes=x')  # quick: an error
    run = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert 'flag --num_episodes=x: invalid literal' in run.stderr
    assert shlex.split(command)[-1] == f'--save_dir={directory}'


def test_damaged_download_is_not_kept(tmp_path, monkeypatch):
    body = bytearray(write(tmp_path / 'served.npz').read_bytes())
    body[700] ^= 1
    with (
        serving(monkeypatch, body),
        pytest.raises(UserError, match=r'download failed \(observations.npy is damaged\)'),
    ):
        make_dataset(TASK, tmp_path / 'data')
    assert list((tmp_path / 'data').iterdir()) == []


def test_unreachable_server_is_an_error(tmp_path, monkeypatch):
    with serving(monkeypatch, b''):
        pass  # nobody listens at that port any more
    with pytest.raises(UserError, match=r'http://127.*download failed .*refused'):
        make_dataset(TASK, tmp_path)


@pytest.mark.parametrize('source', ['auto', 'download'])
def test_large_data_is_never_downloaded(tmp_path, monkeypatch, source):
    command = collect_command('cube-quadruple-play-100m-v0', 100_000, tmp_path)
    assert command.endswith(f'--num_episodes=100000 --num_shards=100 --save_dir={tmp_path}')
    with serving(monkeypatch, b'') as asked:
        with pytest.raises(DatasetError, match=f'by hand.*--ogbench_dataset_dir.*{command}'):
            make_dataset('cube-quadruple-play-100m-singletask-task2-v0', tmp_path, source=source)
        assert asked == []


def test_collection_is_used_only_for_what_it_is(tmp_path, monkeypatch):
    with serving(monkeypatch, b'') as asked:
        dataset = make_dataset(TASK, tmp_path, 'collect', num_episodes=1, seed=3, num_workers=1)
        assert dataset.provenance['source'] == 'collected'
        assert (dataset.provenance['episodes'], dataset.provenance['seed']) == (1, 3)
        assert len(dataset.load(0)['rewards']) == 1001

        path = tmp_path / f'{NAME}.npz'
        written = path.stat().st_mtime_ns
        make_dataset(TASK, tmp_path, 'collect', num_episodes=1, seed=3)
        assert path.stat().st_mtime_ns == written
        assert make_dataset(TASK, tmp_path).provenance['source'] == 'collected'

        with pytest.raises(DatasetError, match=rf'{path}: collected with episodes=1, not 1000'):
            make_dataset(TASK, tmp_path, 'collect', seed=3)
        with pytest.raises(DatasetError, match=rf'{path}: collected with seed=3, not 4; delete it'):
            make_dataset(TASK, tmp_path, 'collect', num_episodes=1, seed=4)
        with pytest.raises(DatasetError, match=rf'{path}: collected here, not downloaded'):
            make_dataset(TASK, tmp_path, 'download')

        write(path)  # other data takes the collection's place
        with pytest.raises(DatasetError, match=rf'describes other files than .*{NAME}.npz'):
            make_dataset(TASK, tmp_path)
        path.unlink()
        with pytest.raises(DatasetError, match=r'json: left over from a collection .*; delete it'):
            make_dataset(TASK, tmp_path)
    assert asked == []


def test_files_of_unknown_origin_are_not_taken_for_a_collection(tmp_path):
    path = write(tmp_path / f'{NAME}.npz')
    with pytest.raises(DatasetError, match=rf'{path}: .*has no manifest, so it was not collected'):
        make_dataset(TASK, tmp_path, 'collect', num_episodes=1)


GOOD = {'episodes': 1, 'seed': 0, 'ogbench': '1.2.2', 'bytes': {f'{NAME}.npz': 1}}


def changed(**changes):
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v != 'left out'})


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', r'not a manifest \(Expecting'),
        ('', 'is empty'),
        ('[]', r'not a manifest \(not an object\)'),
        ('null', r'\(not an object\)'),
        ('1' * 5000, r'not a manifest \(Exceeds the limit'),
        ('NaN', r'\(NaN is not a number\)'),
        ('[' * 100_000, r'\(nested too deeply\)'),
        ('{"a":' * 100_000, r'\(nested too deeply\)'),
        (b'\xff\xfe{}', r'\(not UTF-8\)'),
        ('\ufeff{}', r'not a manifest \('),
        ('{"bytes": {}, "seed": 0}', r'\(has no episodes, ogbench\)'),
        (changed(bytes='left out'), r'\(has no bytes\)'),
        (changed(bytes={}), r'\(bytes does not hold the sizes of files\)'),
        (changed(bytes=[NAME]), r'\(bytes does not'),
        (changed(bytes={f'{NAME}.npz': [1]}), r'\(bytes does not'),
        (changed(bytes={f'{NAME}.npz': -1}), r'\(bytes does not'),
        (changed(bytes={f'{NAME}.npz': 1.0}), r'\(bytes does not'),
        (changed(bytes={'../x.npz': 1}), r"\(bytes names '../x.npz'\)"),
        (changed(bytes={'..': 1}), r"\(bytes names '..'\)"),
        (changed(episodes='1'), r'\(episodes is not a number'),
        (changed(episodes=-1), r'\(episodes is not a number of 0 or more\)'),
        (changed(episodes=True), r'\(episodes is not'),
        (changed(seed=0.5), r'\(seed is not'),
        (changed(seed=None), r'\(seed is not'),
        (changed(ogbench=['1.2.2']), r'\(ogbench is neither text nor a number\)'),
        (changed(ogbench=0).replace('ogbench": 0', 'ogbench": 1e999'), r'\(ogbench is neither'),
        (changed(), f'describes other files than .*: {NAME}.npz'),
    ],
)
@pytest.mark.parametrize('source', ['auto', 'collect', 'download'])
def test_a_manifest_that_is_none_is_an_error(tmp_path, content, message, source):
    path = write(tmp_path / f'{NAME}.npz').with_suffix('.json')
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    episodes = {'num_episodes': 1} if source == 'collect' else {}
    with pytest.raises(DatasetError, match=f'{path}: .*{message}.*; delete the manifest') as caught:
        make_dataset(TASK, tmp_path, source, **episodes)
    assert '\n' not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values),
    max_leaves=5,
)
MANIFESTS = st.one_of(
    JSON.map(json.dumps).map(str.encode),
    st.binary(max_size=50),
    st.dictionaries(st.sampled_from([*GOOD, 'more']), JSON)
    .map(lambda changes: json.dumps(GOOD | changes))
    .map(str.encode),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(MANIFESTS)
def test_any_manifest_is_read_or_an_error(tmp_path, content):
    """One whose file is not there is read, as it says nothing wrong about those that are."""
    path = tmp_path / f'{NAME}.json'
    path.write_bytes(content)
    try:
        manifest = read_manifest([tmp_path / f'{NAME}.npz'], NAME, ('episodes', 'ogbench'))
    except DatasetError as error:
        message = str(error)
    else:
        assert manifest == json.loads(content)
        return
    assert message.startswith(f'{path}: ')
    assert '\n' not in message


def test_a_manifest_that_is_no_file_is_an_error_and_not_opened(tmp_path):
    path = write(tmp_path / f'{NAME}.npz').with_suffix('.json')
    os.mkfifo(path)
    with pytest.raises(DatasetError, match=f'{path}: is a named pipe, not a file; delete the man'):
        make_dataset(TASK, tmp_path)
    path.unlink()
    path.symlink_to('nowhere')
    with pytest.raises(DatasetError, match=f'{path}: is a link to nowhere'):
        make_dataset(TASK, tmp_path)


def test_failed_collection_is_an_error(tmp_path):
    (tmp_path / f'{NAME}-val.npz').touch()
    with pytest.raises(UserError, match=r'envs.collect --env_name=cube-single.* failed'):
        make_dataset(TASK, tmp_path, 'collect', num_episodes=1)


# ---- many files ---------------------------------------------------------------------------------

LARGE, LARGE_TASK = 'cube-single-play-100m-v0', 'cube-single-play-100m-singletask-task1-v0'


def touch(folder, name, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{name}-{number:03d}.npz' for number in numbers]
    for path in paths:
        path.touch()
        path.with_name(f'{path.stem}-val.npz').touch()
    return paths


@pytest.mark.parametrize('directory', ['.', LARGE, 'a link'])
def test_the_public_100m_data_is_found_under_its_own_names(tmp_path, directory):
    paths = touch(tmp_path / LARGE, NAME, range(3))
    (tmp_path / 'a link').symlink_to(LARGE)
    found = find_cubes(tmp_path / directory, LARGE)
    assert [path.name for path in found] == [path.name for path in paths]


def test_the_public_100m_data_is_loaded_from_within_its_folder(tmp_path, monkeypatch):
    for number in range(2):
        write(tmp_path / LARGE / f'{NAME}-{number:03d}.npz', **make_arrays(seed=number))
    monkeypatch.chdir(tmp_path / LARGE)
    dataset = make_dataset(LARGE_TASK, '.')
    assert (dataset.name, len(dataset)) == (LARGE, 2)
    expected = make_arrays(seed=1)['observations']
    np.testing.assert_array_equal(dataset.load(1)['observations'], expected)


@pytest.mark.parametrize('folder', ['', NAME])
def test_plain_data_is_not_taken_for_100m_data(tmp_path, folder):
    paths = touch(tmp_path / folder, NAME, range(2))
    assert find_cubes(tmp_path, NAME) == paths
    with pytest.raises(
        DatasetError,
        match=rf'{LARGE}: not in {tmp_path}.*by hand into \S+/{LARGE} \({NAME}-000.npz and so on',
    ):
        make_dataset(LARGE_TASK, tmp_path)
    (tmp_path / LARGE).mkdir()
    (tmp_path / LARGE / f'{NAME}.npz').touch()
    assert find_cubes(tmp_path, LARGE) == []


@pytest.mark.parametrize('directory', ['.', LARGE])
def test_100m_data_is_not_taken_for_plain_data(tmp_path, directory):
    paths = touch(tmp_path / LARGE, NAME, range(2))
    assert find_cubes(tmp_path / directory, NAME) == []
    single = tmp_path / directory / f'{NAME}.npz'
    single.touch()
    assert find_cubes(tmp_path / directory, NAME) == [single]
    assert find_cubes(tmp_path, LARGE) == paths


def test_two_files_for_one_shard_are_an_error(tmp_path):
    touch(tmp_path / LARGE, LARGE, range(2))
    second = tmp_path / LARGE / f'{LARGE}-1.npz'
    second.touch()
    with pytest.raises(DatasetError, match=f'{second}: is shard 1, and so is {LARGE}-001.npz; del'):
        make_dataset(LARGE_TASK, tmp_path)
    second.rename(tmp_path / LARGE / f'{NAME}-001.npz')
    with pytest.raises(DatasetError, match=f'{NAME}-001.npz: is shard 1, and so is {LARGE}-001'):
        make_dataset(LARGE_TASK, tmp_path)


def test_a_number_without_end_is_an_error(tmp_path):
    (path := tmp_path / f'{LARGE}-99999999999999.npz').touch()
    with pytest.raises(DatasetError, match=f'{path}: shards have numbers below 10000; rename it'):
        make_dataset(LARGE_TASK, tmp_path)


def make_toy_dataset(directory, **arguments):
    return envs.make_dataset(
        envs.find_task(toy_suite.ENV_NAME, 'toy_suite:suite'),
        toy_dataset_dir=str(directory),
        **arguments,
    )


def write_shards(folder, number):
    return [
        small_data.write(folder / f'{toy_suite.DATASET}-{i:03d}.npz', **small_data.make_arrays(i))
        for i in range(number)
    ]


def break_shard(path, how):
    if how == 'missing':
        path.unlink()
    elif how == 'cut off':
        path.write_bytes(path.read_bytes()[:-100])
    elif how == 'of another task':
        write(path)
    elif how == 'a directory':
        path.unlink()
        path.mkdir()


BROKEN = {
    'missing': 'is missing',
    'cut off': 'cut off or damaged',
    'of another task': 'has no rewards',
    'a directory': 'is a directory',
}


@pytest.mark.parametrize('how', BROKEN)
@pytest.mark.parametrize('number', [0, 1])
def test_a_shard_that_cannot_be_used_is_named_or_skipped(tmp_path, caplog, how, number):
    paths = write_shards(tmp_path, 4)
    break_shard(paths[number], how)
    message = f'{paths[number]}: .*{BROKEN[how]}'
    with pytest.raises(DatasetError, match=message):
        make_toy_dataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = make_toy_dataset(tmp_path, on_bad_shard='skip')
    assert dataset.usable == tuple(i for i in range(4) if i != number)
    assert caplog.text.count('Skipping a shard.') == 1
    assert f'{paths[number]}: ' in caplog.text
    assert len(dataset.load(3)['rewards']) == 6
    with pytest.raises(DatasetError, match=message):
        dataset.load(number)
    for path in paths:
        if path.exists() and path != paths[number]:
            break_shard(path, 'cut off')
    with pytest.raises(DatasetError, match=f'{paths[0]}: '):
        make_toy_dataset(tmp_path, on_bad_shard='skip')


@pytest.mark.parametrize('number', [1, 2])
@pytest.mark.parametrize('how', ['missing', 'cut off'])
def test_a_shard_of_a_collection_that_cannot_be_used_is_skipped(tmp_path, how, number):
    paths = write_shards(tmp_path, 3)
    sizes = {path.name: path.stat().st_size for path in paths}
    manifest = tmp_path / f'{toy_suite.DATASET}.json'
    manifest.write_text(json.dumps(GOOD | {'bytes': sizes}))
    assert make_toy_dataset(tmp_path).provenance['source'] == 'collected'
    break_shard(paths[number], how)
    with pytest.raises(DatasetError, match=f'{paths[number]}: .*{BROKEN[how]}'):
        make_toy_dataset(tmp_path)
    dataset = make_toy_dataset(tmp_path, on_bad_shard='skip')
    assert dataset.usable == tuple(i for i in range(3) if i != number)


def test_unknown_words_for_bad_shards_are_errors(tmp_path):
    with pytest.raises(UserError, match='on_bad_shard=ignore: must be one of fail, skip'):
        make_dataset(TASK, tmp_path, on_bad_shard='ignore')


def test_a_directory_that_is_none_is_an_error(tmp_path):
    path = tmp_path / 'file'
    path.touch()
    with pytest.raises(DatasetError, match=f'{path}: not a directory; give the one where'):
        make_dataset(TASK, path)


def test_a_dangling_link_in_a_files_place_is_an_error(tmp_path):
    path = tmp_path / f'{toy_suite.DATASET}.npz'
    path.symlink_to('nowhere')
    with pytest.raises(DatasetError, match=f'{path}: is a link to nowhere, which is not there'):
        make_toy_dataset(tmp_path)
