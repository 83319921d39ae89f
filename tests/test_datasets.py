"""Offline data: its sources, the checks on it, and what a run loads."""

import functools
import hashlib
import json

import mujoco
import numpy as np
import pytest
import small_data
import toy_suite

import envs
from envs import DatasetError, make_env
from envs.files import find_files
from envs.layouts import ACTION_LIMIT
from envs.ogbench.data import SHA256
from envs.ogbench.data import find_files as find_cubes
from envs.ogbench.tasks import make_env as make_scene
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


@pytest.fixture(autouse=True)
def one_scene_for_all(monkeypatch):
    """Building a scene takes longer than everything else here."""
    monkeypatch.setattr('envs.ogbench.data.make_env', made_once)


made_once = functools.cache(make_scene)


def make_dataset(env_name, directory, source='auto', **arguments):
    return envs.make_dataset(
        env_name, source=source, ogbench_dataset_dir=str(directory), **arguments
    )


def test_rows_are_stored_once_and_actions_are_clipped_and_counted(tmp_path, caplog):
    write(tmp_path / f'{NAME}.npz', **(arrays := make_arrays()))
    dataset = make_dataset(TASK, tmp_path)
    assert (dataset.name, len(dataset.paths)) == (NAME, 1)
    data = dataset.load(0)
    number = (np.abs(arrays['actions']).max(axis=1) > 1).sum()
    assert f'{number} of 20 actions lie outside [-1, 1], by up to 0.' in caplog.text
    np.testing.assert_array_equal(data['observations'], arrays['observations'])
    np.testing.assert_array_equal(data['terminals'], arrays['terminals'])
    limit = np.float32(ACTION_LIMIT)
    np.testing.assert_array_equal(data['actions'], arrays['actions'].clip(-limit, limit))
    assert {key: rows.dtype for key, rows in data.items()} == {
        'observations': np.float32,
        'actions': np.float32,
        'rewards': np.float32,
        'masks': np.float32,
        'terminals': bool,
    }
    assert {len(rows) for rows in data.values()} == {20}


def test_rewards_are_those_of_the_environment(tmp_path):
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


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'qpos': None, 'actions': None}, 'has no actions, qpos'),
        ({'qpos': np.zeros((20, 14), np.float32)}, r'qpos has shape \(20, 14\)'),
        ({'qpos': np.full((20, 21), np.inf)}, 'qpos is not finite in row 0'),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path, changes, message):
    path = write(tmp_path / f'{NAME}.npz', **changes)
    with pytest.raises(DatasetError, match=rf'{path}: {message}.*; delete it and download or'):
        make_dataset(TASK, tmp_path).load(0)


def test_missing_data_is_downloaded_once(tmp_path, monkeypatch):
    served = write(tmp_path / 'mirror' / f'{NAME}.npz')
    monkeypatch.setenv('OGBENCH_DATASET_URL', served.parent.as_uri())
    directory = tmp_path / 'new' / 'directory'
    dataset = make_dataset(TASK, directory)
    assert dataset.provenance['source'] == 'downloaded'
    assert dataset.provenance['url'] == served.as_uri()
    content = served.read_bytes()
    served.unlink()
    again = make_dataset(TASK, directory, source='download')
    assert again.provenance['source'] == 'on disk'
    sums = {x.provenance['sha256'] for x in (dataset, again)}
    assert sums == {hashlib.sha256(content).hexdigest()}
    assert [path.read_bytes() for path in directory.iterdir()] == [content]


def test_another_file_than_the_published_one_is_not_kept(tmp_path, monkeypatch):
    served = write(tmp_path / 'mirror' / f'{NAME}.npz')
    monkeypatch.setenv('OGBENCH_DATASET_URL', served.parent.as_uri())
    monkeypatch.setattr('envs.ogbench.data.HOSTS', ())
    monkeypatch.setitem(SHA256, NAME, 'abc')
    with pytest.raises(UserError, match=r'the server sent another file: SHA-256 \w+, not abc'):
        make_dataset(TASK, tmp_path / 'data')
    assert list((tmp_path / 'data').iterdir()) == []


def test_what_cannot_be_downloaded_says_what_to_run_and_leaves_nothing(tmp_path, monkeypatch):
    """Data of 100M is never downloaded."""
    monkeypatch.setenv('OGBENCH_DATASET_URL', (tmp_path / 'mirror').as_uri())
    monkeypatch.setattr('envs.ogbench.data.HOSTS', ())
    for name, message in (
        ('cube-double-play', 'OGBENCH_DATASET_URL'),
        ('cube-quadruple-play-100m', f'envs.download --dataset=.* --save_dir={tmp_path}'),
    ):
        with pytest.raises(
            UserError, match=rf'{message}, or collect such data here with --dataset'
        ):
            make_dataset(f'{name}-singletask-task2-v0', tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- many files ---------------------------------------------------------------------------------

LARGE, LARGE_TASK = 'cube-single-play-100m-v0', 'cube-single-play-100m-singletask-task1-v0'


def touch(folder, name, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{name}-{number:03d}.npz' for number in numbers]
    for path in paths:
        path.touch()
        path.with_name(f'{path.stem}-val.npz').touch()
    return paths


@pytest.mark.parametrize('directory', ['.', 'a link'])
def test_the_public_100m_data_is_found_under_its_own_names(tmp_path, directory):
    paths = touch(tmp_path / LARGE, NAME, range(3))
    (tmp_path / 'a link').symlink_to(LARGE)
    found = find_cubes(tmp_path / directory, LARGE)
    assert [path.name for path in found] == [path.name for path in paths]


@pytest.mark.parametrize('folder', ['', NAME])
def test_plain_data_is_not_taken_for_100m_data(tmp_path, folder):
    paths = touch(tmp_path / folder, NAME, range(2))
    assert find_cubes(tmp_path, NAME) == paths
    with pytest.raises(DatasetError, match=f'{LARGE}: not in {tmp_path}.* --dataset={LARGE} '):
        make_dataset(LARGE_TASK, tmp_path)
    (tmp_path / LARGE).mkdir()
    (tmp_path / LARGE / f'{NAME}.npz').touch()
    assert find_cubes(tmp_path, LARGE) == []


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


def write_manifest(folder, name, paths):
    sizes = {path.name: path.stat().st_size for path in paths}
    manifest = {'episodes': 1, 'seed': 0, 'shards': len(paths), 'bytes': sizes}
    (folder / f'{name}.json').write_text(json.dumps(manifest))


def test_a_shard_that_is_missing_or_unusable_is_named(tmp_path):
    """Also the last one, if a manifest has it."""
    paths = write_shards(tmp_path, 3)
    write(paths[1])
    with pytest.raises(DatasetError, match=f'{paths[1]}: has no rewards'):
        make_toy_dataset(tmp_path)
    paths[1].unlink()
    with pytest.raises(DatasetError, match=f'{paths[1]}: is missing'):
        make_toy_dataset(tmp_path)
    write_manifest(tmp_path, toy_suite.DATASET, write_shards(tmp_path, 3))
    assert make_toy_dataset(tmp_path).provenance['source'] == 'collected'
    paths[2].unlink()
    with pytest.raises(DatasetError, match=f'{paths[2]}: is missing'):
        make_toy_dataset(tmp_path)


def test_collection_is_used_only_for_what_it_is(tmp_path):
    collect = functools.partial(make_toy_dataset, tmp_path, source='collect', seed=3, num_workers=1)
    dataset = collect(num_episodes=4)
    assert dataset.load(0)['terminals'].sum() == 4
    path = tmp_path / f'{toy_suite.DATASET}.npz'
    expected = {
        'source': 'collected',
        'directory': str(tmp_path),
        'files': [path.name],
        'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
        'episodes': 4,
        'seed': 3,
    }
    assert expected.items() <= dataset.provenance.items()
    written = path.stat().st_mtime_ns
    collect(num_episodes=4)
    assert path.stat().st_mtime_ns == written
    assert make_toy_dataset(tmp_path).provenance['source'] == 'collected'
    with pytest.raises(DatasetError, match=rf'{path} exists, collected with episodes=4, not 100:'):
        collect()
    with pytest.raises(DatasetError, match=rf'{path}: collected here, not downloaded'):
        make_toy_dataset(tmp_path, source='download')
    small_data.write(path)  # other data takes the collection's place
    with pytest.raises(DatasetError, match=rf'does not match the files .*{path.name}'):
        make_toy_dataset(tmp_path)


def test_as_much_is_collected_as_is_public_unless_a_number_is_given(tmp_path):
    path = write(tmp_path / f'{NAME}.npz')
    write_manifest(tmp_path, NAME, [path])
    with pytest.raises(DatasetError, match=rf'{path} exists, collected with episodes=1, not 1000:'):
        make_dataset(TASK, tmp_path, 'collect')
