"""Scripted collection: what the files hold, equal seeds, failures that leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import ogbench.utils
import pytest

from envs.collect import _reserve, collect
from envs.ogbench.scripts import CubeScript
from envs.ogbench.tasks import EPISODE_ROWS
from utils.errors import UserError

NAME = 'cube-double-play-v0'


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    """Two training episodes and one for validation, collected by two processes."""
    directory = tmp_path_factory.mktemp('collection')
    paths = collect(NAME, 2, directory, num_workers=2, seed=5, num_val_episodes=1)
    assert paths == [directory / f'{NAME}.npz']
    return directory


def read(path):
    with np.load(path) as file:
        return dict(file)


def test_files_have_ogbench_format(collection):
    assert {path.name for path in collection.iterdir()} == {
        f'{NAME}.npz',
        f'{NAME}-val.npz',
        f'{NAME}.json',
    }
    rows = read(collection / f'{NAME}.npz')
    shapes = {key: array.shape for key, array in rows.items()}
    assert shapes == {
        'observations': (2 * EPISODE_ROWS, 37),
        'actions': (2 * EPISODE_ROWS, 5),
        'terminals': (2 * EPISODE_ROWS,),
        'qpos': (2 * EPISODE_ROWS, 28),
        'qvel': (2 * EPISODE_ROWS, 26),
    }
    assert rows.pop('terminals').dtype == bool
    assert {array.dtype for array in rows.values()} == {np.dtype(np.float32)}
    assert np.abs(rows['actions']).max() == 1

    loaded = ogbench.utils.load_dataset(collection / f'{NAME}.npz', add_info=True)
    assert loaded['observations'].shape == (2000, 37)
    np.testing.assert_array_equal(
        loaded['next_observations'][:-1][loaded['terminals'][:-1] == 0],
        loaded['observations'][1:][loaded['terminals'][:-1] == 0],
    )
    np.testing.assert_array_equal(np.flatnonzero(loaded['terminals']), [999, 1999])

    manifest = json.loads((collection / f'{NAME}.json').read_text())
    expected = {'source': 'collected', 'episodes': 2, 'val_episodes': 1, 'shards': 1, 'seed': 5}
    assert expected.items() <= manifest.items()


def test_a_row_holds_the_state_before_its_action(collection):
    rows = read(collection / f'{NAME}.npz')
    np.testing.assert_allclose(rows['observations'][:, :6], rows['qpos'][:, :6])
    np.testing.assert_allclose(rows['observations'][:, 6:12], rows['qvel'][:, :6])
    cubes = rows['observations'][:, [19, 20, 21, 28, 29, 30]] / 10 + np.tile([0.425, 0, 0], 2)
    np.testing.assert_allclose(cubes, rows['qpos'][:, [14, 15, 16, 21, 22, 23]], atol=1e-6)


def test_the_arm_moves_the_cubes(collection):
    xyz = read(collection / f'{NAME}.npz')['qpos'][:, 14:17].reshape(2, EPISODE_ROWS, 3)
    assert (np.ptp(xyz[:, :, :2], axis=1).max(axis=1) > 0.1).any()
    assert xyz[:, :, 2].max() > 0.08


def test_bytes_depend_on_the_seed_alone(collection, tmp_path):
    paths = collect(
        NAME, 2, tmp_path, num_workers=1, seed=5, num_shards=2, num_val_episodes=1
    )  # one worker and two files instead of two and one
    folder = tmp_path / NAME
    assert list(tmp_path.iterdir()) == [folder]
    assert paths == [folder / f'{NAME}-000.npz', folder / f'{NAME}-001.npz']
    whole, shards = read(collection / f'{NAME}.npz'), [read(path) for path in paths]
    assert [len(shard['terminals']) for shard in shards] == [EPISODE_ROWS, EPISODE_ROWS]
    for key, rows in whole.items():
        assert np.concatenate([shard[key] for shard in shards]).tobytes() == rows.tobytes()
    val = f'{NAME}-val.npz'
    assert (folder / val).read_bytes() == (collection / val).read_bytes()
    assert not np.array_equal(read(folder / val)['actions'], whole['actions'][:EPISODE_ROWS])


def test_episodes_do_not_depend_on_those_before_and_draw_their_stacking(collection):
    script = CubeScript(NAME)
    env = script.env
    set_new_target, probabilities = env.unwrapped.set_new_target, []

    def spy(**arguments):
        if 'p_stack' in arguments:  # the environment itself asks for the first target, without
            probabilities[-1].add(arguments['p_stack'])
        return set_new_target(**arguments)

    env.unwrapped.set_new_target = spy
    whole = read(collection / f'{NAME}.npz')
    for episode in (1, 0):
        probabilities.append(set())
        rows = script.play((5, 0, episode))
        span = slice(episode * EPISODE_ROWS, (episode + 1) * EPISODE_ROWS)
        for key in whole:
            np.testing.assert_array_equal(rows[key], whole[key][span])
    assert [len(drawn) for drawn in probabilities] == [1, 1]
    first, second = (drawn.pop() for drawn in probabilities)
    assert first != second
    assert 0 < min(first, second) < max(first, second) < 0.25


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'env_name': 'cube-quintuple-play-v0'}, r'--env_name=cube-quintuple-play-v0: .*\{single,'),
        ({'env_name': 'cube-double-play-singletask-task2-v0'}, '--env_name=.*: not the name of'),
        ({'num_episodes': 0}, '--num_episodes=0: must be at least 1'),
        ({'num_workers': 0}, '--num_workers=0: must be at least 1'),
        ({'num_shards': 0}, '--num_shards=0: must be at least 1'),
        ({'num_val_episodes': -1}, '--num_val_episodes=-1: must be at least 0'),
        ({'seed': -1}, '--seed=-1: must be at least 0'),
        ({'num_shards': 5}, '--num_shards=5: more than --num_episodes=4'),
    ],
)
def test_senseless_arguments_are_errors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        collect(**{'env_name': NAME, 'num_episodes': 4, 'save_dir': tmp_path / 'new', **arguments})
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('end', ['.npz', '-val.npz', '.json', '-000.npz', ''])
def test_nothing_is_overwritten(tmp_path, end):
    path = tmp_path / f'{NAME}{end}'
    path.touch()
    with pytest.raises(UserError, match=f'{path} exists: delete it or choose another --save'):
        collect(NAME, 1, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_two_collections_do_not_share_a_directory(tmp_path):
    part = tmp_path / f'{NAME}.part'
    with _reserve(tmp_path, NAME):
        with pytest.raises(UserError, match=f'{part} exists: another collection is at work'):
            collect(NAME, 1, tmp_path)
        assert part.exists()
    assert not part.exists()


def leave_a_part(directory):
    """Leaves what a killed collection does; returns it."""
    part = directory / f'{NAME}.part'
    (part / NAME).mkdir(parents=True)
    for name in ('.lock', f'{NAME}.npz', f'{NAME}/{NAME}-000.npz'):
        (part / name).touch()
    return part


def test_what_a_killed_collection_left_is_removed(tmp_path):
    part = leave_a_part(tmp_path)
    with _reserve(tmp_path, NAME) as folder:
        assert folder == part
        assert [path.name for path in part.iterdir()] == ['.lock']
    assert list(tmp_path.iterdir()) == []


def test_a_collection_killed_while_it_published_does_not_block_the_next(tmp_path):
    leave_a_part(tmp_path)
    for end in ('-val.npz', '.json'):  # these are moved first
        (tmp_path / f'{NAME}{end}').touch()
    with _reserve(tmp_path, NAME):
        assert [path.name for path in tmp_path.iterdir()] == [f'{NAME}.part']


def test_what_a_killed_collection_left_does_not_allow_to_overwrite(tmp_path):
    leave_a_part(tmp_path)
    path = tmp_path / f'{NAME}.npz'
    path.touch()
    with pytest.raises(UserError, match=f'{path} exists'):
        collect(NAME, 1, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def worker_pids(pid):
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [int(c) for c in children if b'spawn_main' in Path(f'/proc/{c}/cmdline').read_bytes()]


def interruptible():
    """Undoes that programs a shell starts in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='finds workers through /proc')
@pytest.mark.parametrize(
    ('victim', 'number', 'message'),
    [
        ('collector', signal.SIGINT, 'Interrupted: unfinished files are removed'),
        ('collector', signal.SIGTERM, 'Interrupted: unfinished files are removed'),
        ('worker', signal.SIGKILL, 'a worker process died'),
    ],
)
def test_an_interrupted_collection_leaves_nothing(tmp_path, victim, number, message):
    command = [sys.executable, '-m', 'envs.collect', f'--env_name={NAME}', '--num_episodes=50']
    command += ['--num_workers=2', f'--save_dir={tmp_path}']
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while len(workers := worker_pids(process.pid)) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert (tmp_path / f'{NAME}.part').is_dir()
            time.sleep(3)  # in the midst of an episode
            os.kill(process.pid if victim == 'collector' else workers[-1], number)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert message in errors
    assert 'Traceback' not in errors
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f'/proc/{pid}').exists() for pid in workers)


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='finds workers through /proc')
def test_workers_end_without_a_word_when_the_collector_is_killed(tmp_path):
    command = [sys.executable, '-m', 'envs.collect', f'--env_name={NAME}', '--num_episodes=50']
    command += ['--num_workers=2', f'--save_dir={tmp_path}']
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while len(worker_pids(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)  # in the midst of an episode
        process.kill()
        _, errors = process.communicate(timeout=10)  # ends when all that could write are gone
    assert 'Traceback' not in errors


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='finds workers through /proc')
def test_a_collection_ends_with_the_program_that_runs_it(tmp_path):
    """However that program ends; and signals are for that program to judge."""
    command = [sys.executable, '-m', 'envs.collect', f'--env_name={NAME}', '--num_episodes=50']
    command += ['--num_workers=2', f'--save_dir={tmp_path}', '--end_with_stdin']
    pipes = {'stdin': subprocess.PIPE, 'stderr': subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        deadline = time.monotonic() + 30
        while len(workers := worker_pids(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for number in (signal.SIGINT, signal.SIGUSR1):
            process.send_signal(number)
        time.sleep(1)
        assert process.poll() is None
        _, errors = process.communicate(timeout=10)  # closes standard input
    assert process.returncode == 1
    assert 'Traceback' not in errors
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f'/proc/{pid}').exists() for pid in workers)
