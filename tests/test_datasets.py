"""Offline data: where it comes from, what it must look like, what is loaded."""

import contextlib
import dataclasses
import http.server
import json
import threading
import tracemalloc

import mujoco
import numpy as np
import pytest

import envs
from envs import DatasetError, make_env
from envs.datasets import find_files
from envs.ogbench.data import ACTION_LIMIT, check_file, collect_command
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
    return make_env(TASK)


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
    for shard in (2, 0, 1000, 1):
        rows = make_arrays(seed=shard)
        write(tmp_path / name / f'{name}-{shard:03d}.npz', **rows)
        write(tmp_path / name / f'{name}-{shard:03d}-val.npz')
    dataset = make_dataset('cube-single-play-100m-singletask-task1-v0', tmp_path)
    assert [path.name[-8:-4] for path in dataset.paths] == ['-000', '-001', '-002', '1000']
    for shard, seed in enumerate((0, 1, 2, 1000)):
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
        ({key: rows[:0] for key, rows in make_arrays().items()}, 'terminals is True nowhere'),
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
    with pytest.raises(DatasetError, match=rf'{path}: {key} is not finite in row 13; delete it'):
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
        ({'length': 10_000}, r'5000 of 10000 bytes arrived'),
        ({}, 'not a zip file'),
    ],
)
def test_failed_download_says_what_to_run_and_leaves_nothing(
    tmp_path, monkeypatch, answer, message
):
    command = 'python -m envs.collect --env_name=cube-double-play-v0 --num_episodes=1000'
    with (
        serving(monkeypatch, b'x' * 5000, **answer),
        pytest.raises(UserError, match=rf'{NAME[:5]}double.*{message}.*{command}$'),
    ):
        make_dataset('cube-double-play-singletask-task2-v0', tmp_path)
    assert list(tmp_path.iterdir()) == []


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
    command = collect_command('cube-quadruple-play-100m-v0', 100_000)
    assert command.endswith('--num_episodes=100000 --num_shards=100')
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


def test_unreadable_manifest_is_an_error(tmp_path):
    write(tmp_path / f'{NAME}.npz')
    (tmp_path / f'{NAME}.json').write_text('{')
    with pytest.raises(DatasetError, match=r'json: not a manifest .*; delete the manifest if'):
        make_dataset(TASK, tmp_path)


def test_failed_collection_is_an_error(tmp_path):
    (tmp_path / f'{NAME}-val.npz').touch()
    with pytest.raises(UserError, match=r'envs.collect --env_name=cube-single.* failed'):
        make_dataset(TASK, tmp_path, 'collect', num_episodes=1)
