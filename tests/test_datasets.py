"""Offline data: where it comes from, what it must look like, what is loaded."""

import contextlib
import hashlib
import http.server
import json
import logging
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import mujoco
import numpy as np
import pytest
import small_data
import toy_suite

import envs
from envs import DatasetError, make_env
from envs.datasets import find_files
from envs.layouts import ACTION_LIMIT
from envs.ogbench.data import SHA256
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
    monkeypatch.setattr('envs.ogbench.data.HOSTS', ())
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


def with_bad_value(key, value):
    arrays = make_arrays()
    arrays[key][13, 2] = value
    return {key: arrays[key]}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'qpos': None, 'actions': None}, 'has no actions, qpos'),
        ({'terminals': np.zeros(20, bool)}, 'terminals is True nowhere'),
        ({'observations': np.zeros((20, 37), np.float32)}, r'observations has shape \(20, 37\)'),
        ({'qpos': np.zeros((20, 14), np.float32)}, r'qpos has shape \(20, 14\)'),
        (with_bad_value('observations', np.nan), 'observations is not finite in row 13'),
        (with_bad_value('qpos', np.inf), 'qpos is not finite in row 13'),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path, changes, message):
    path = write(tmp_path / f'{NAME}.npz', **changes)
    with pytest.raises(DatasetError, match=rf'{path}: {message}.*; delete it and download or'):
        make_dataset(TASK, tmp_path).load(0)


def test_actions_that_are_clipped_are_counted(tmp_path, caplog):
    arrays = make_arrays()
    actions = arrays['actions'].clip(-1, 1)
    actions[3, 1], actions[4, 0] = 1.25, -1.5
    write(tmp_path / f'{NAME}.npz', actions=actions)
    with caplog.at_level(logging.WARNING):
        make_dataset(TASK, tmp_path).load(0)
    assert '2 of 20 actions lie outside [-1, 1], by up to 0.5; they are clipped' in caplog.text


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
        assert dataset.provenance['url'].endswith(f'/data/{NAME}.npz')
        again = make_dataset(TASK, directory, source='download')
    assert again.provenance['source'] == 'on disk'
    sums = {x.provenance['sha256'] for x in (dataset, again)}
    assert sums == {hashlib.sha256(body).hexdigest()}
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
    monkeypatch.setattr('envs.ogbench.data.HOSTS', ())
    directory = tmp_path / 'a place'
    with pytest.raises(UserError) as caught:
        make_dataset(TASK, directory)
    command = str(caught.value).partition('collect such data here: ')[2]
    assert ('.venv' in sys.executable and cwd == 'root') <= command.startswith('.venv/')
    command = command.replace('--num_episodes=1000', '--num_episodes=x')  # quick: an error
    run = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert 'flag --num_episodes=x: invalid literal' in run.stderr
    assert shlex.split(command)[-1] == f'--save_dir={directory}'


def test_a_damaged_download_or_another_file_is_not_kept(tmp_path, monkeypatch):
    body = bytearray(write(tmp_path / 'served.npz').read_bytes())
    body[700] ^= 1
    with (
        serving(monkeypatch, body),
        pytest.raises(UserError, match=r'download failed \(observations.npy is damaged\)'),
    ):
        make_dataset(TASK, tmp_path / 'data')
    monkeypatch.setitem(SHA256, f'{NAME}.npz', 'abc')
    with (
        serving(monkeypatch, (tmp_path / 'served.npz').read_bytes()),
        pytest.raises(UserError, match=r'failed \(another file was sent, of SHA-256 \w+, not abc'),
    ):
        make_dataset(TASK, tmp_path / 'data')
    assert list((tmp_path / 'data').iterdir()) == []


@pytest.mark.parametrize('source', ['auto', 'download'])
def test_large_data_is_never_downloaded_unasked(tmp_path, monkeypatch, source):
    command = f'--num_episodes=100000 --num_shards=100 --save_dir={tmp_path}$'
    with serving(monkeypatch, b'') as asked:
        with pytest.raises(DatasetError, match=f'-m envs.download --dataset=.*{command}'):
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
        with pytest.raises(DatasetError, match=rf'does not match the files .*{NAME}.npz'):
            make_dataset(TASK, tmp_path)
    assert asked == []


def test_files_of_unknown_origin_are_not_taken_for_a_collection(tmp_path):
    path = write(tmp_path / f'{NAME}.npz')
    with pytest.raises(DatasetError, match=rf'{path}: not collected .it has no manifest'):
        make_dataset(TASK, tmp_path, 'collect', num_episodes=1)


@pytest.mark.parametrize(
    'content', ['{', '', '[]', '{"bytes": {}}', '{"bytes": [], "episodes": 1, "seed": 0}']
)
def test_a_manifest_that_is_none_is_an_error(tmp_path, content):
    path = write(tmp_path / f'{NAME}.npz').with_suffix('.json')
    path.write_text(content)
    with pytest.raises(DatasetError, match=f'{path}: not the manifest of .*; delete the manifest'):
        make_dataset(TASK, tmp_path)


def test_failed_collection_is_an_error(tmp_path):
    (tmp_path / f'{NAME}-val.npz').touch()  # collecting overwrites nothing
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
        match=rf'{LARGE}: not in {tmp_path}.*download it: \S+ -m envs.download --dataset={LARGE}',
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


BROKEN = {
    'missing': 'is missing',
    'cut off': 'cut off or damaged',
    'of another task': 'has no rewards',
}


@pytest.mark.parametrize('how', BROKEN)
@pytest.mark.parametrize('number', [0, 1])
def test_a_shard_that_cannot_be_used_is_named_or_skipped(tmp_path, caplog, how, number):
    paths = write_shards(tmp_path, 4)
    break_shard(paths[number], how)
    with pytest.raises(DatasetError, match=f'{paths[number]}: .*{BROKEN[how]}'):
        make_toy_dataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = make_toy_dataset(tmp_path, on_bad_shard='skip')
    assert [path.name for path in dataset.paths] == [
        path.name for i, path in enumerate(paths) if i != number
    ]
    assert caplog.text.count('Skipping a shard.') == 1
    assert f'{paths[number]}: ' in caplog.text
    assert len(dataset.load(2)['rewards']) == 6
    for path in dataset.paths:
        break_shard(path, 'cut off')
    with pytest.raises(DatasetError, match=f'{paths[0]}: '):
        make_toy_dataset(tmp_path, on_bad_shard='skip')


def test_a_shard_that_a_collection_lost_is_missed(tmp_path):
    paths = write_shards(tmp_path, 3)
    sizes = {path.name: path.stat().st_size for path in paths}
    manifest = tmp_path / f'{toy_suite.DATASET}.json'
    manifest.write_text(json.dumps({'episodes': 1, 'seed': 0, 'bytes': sizes}))
    assert make_toy_dataset(tmp_path).provenance['source'] == 'collected'
    paths[2].unlink()
    with pytest.raises(DatasetError, match=f'{paths[2]}: is missing'):
        make_toy_dataset(tmp_path)
    assert len(make_toy_dataset(tmp_path, on_bad_shard='skip')) == 2


def test_unknown_words_for_bad_shards_are_errors(tmp_path):
    with pytest.raises(UserError, match='on_bad_shard=ignore: must be one of fail, skip'):
        make_dataset(TASK, tmp_path, on_bad_shard='ignore')


def test_a_directory_that_is_none_is_an_error(tmp_path):
    path = tmp_path / 'file'
    path.touch()
    with pytest.raises(DatasetError, match=f'{path}: not a directory; name the directory'):
        make_dataset(TASK, path)
