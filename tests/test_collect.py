"""Scripted collection: what the files hold, equal seeds, failures that leave nothing behind."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import ogbench.utils
import pytest
import toy_suite

from envs import Suite, locks
from envs.collect import collect
from envs.ogbench.tasks import EPISODE_ROWS
from utils.errors import UserError

NAME = 'cube-double-play-v0'


@pytest.fixture(scope='module')
def collection(collected):
    """A training episode and one for validation, collected by two processes."""
    return collected(NAME)


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
        'observations': (EPISODE_ROWS, 37),
        'actions': (EPISODE_ROWS, 5),
        'terminals': (EPISODE_ROWS,),
        'qpos': (EPISODE_ROWS, 28),
        'qvel': (EPISODE_ROWS, 26),
    }
    assert rows.pop('terminals').dtype == bool
    assert {array.dtype for array in rows.values()} == {np.dtype(np.float32)}
    assert np.abs(rows['actions']).max() == 1

    loaded = ogbench.utils.load_dataset(collection / f'{NAME}.npz', add_info=True)
    assert loaded['observations'].shape == (1000, 37)
    np.testing.assert_array_equal(
        loaded['next_observations'][:-1][loaded['terminals'][:-1] == 0],
        loaded['observations'][1:][loaded['terminals'][:-1] == 0],
    )
    np.testing.assert_array_equal(np.flatnonzero(loaded['terminals']), [999])

    manifest = json.loads((collection / f'{NAME}.json').read_text())
    expected = {'source': 'collected', 'episodes': 1, 'val_episodes': 1, 'shards': 1, 'seed': 5}
    assert expected.items() <= manifest.items()


def test_a_row_holds_the_state_before_its_action(collection):
    rows = read(collection / f'{NAME}.npz')
    np.testing.assert_allclose(rows['observations'][:, :6], rows['qpos'][:, :6])
    np.testing.assert_allclose(rows['observations'][:, 6:12], rows['qvel'][:, :6])
    cubes = rows['observations'][:, [19, 20, 21, 28, 29, 30]] / 10 + np.tile([0.425, 0, 0], 2)
    np.testing.assert_allclose(cubes, rows['qpos'][:, [14, 15, 16, 21, 22, 23]], atol=1e-6)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'env_name': 'cube-quintuple-play-v0'}, r'--env_name=cube-quintuple-play-v0: .*\{single,'),
        ({'num_episodes': 0}, '--num_episodes=0: must be at least 1'),
        ({'num_shards': 5}, '--num_shards=5: more than --num_episodes=4'),
    ],
)
def test_senseless_arguments_are_errors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        collect(**{'env_name': NAME, 'num_episodes': 4, 'save_dir': tmp_path / 'new', **arguments})
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('end', ['-val.npz', '-000.npz'])
def test_nothing_is_overwritten(tmp_path, end):
    path = tmp_path / f'{NAME}{end}'
    path.touch()
    with pytest.raises(UserError, match=f'{path} exists: delete it or choose another --save'):
        collect(NAME, 1, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


TOY = {'num_workers': 1, 'suite': 'toy_suite:suite'}
TOY_NAME = toy_suite.DATASET


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Three episodes of the toy suite, and one for validation."""
    directory = tmp_path_factory.mktemp('toy')
    collect(TOY_NAME, 3, directory, num_val_episodes=1, **TOY)
    return directory


def test_bytes_depend_on_the_seed_alone(toy, tmp_path):
    """Two workers and three files instead of one of each; episodes differ in length."""
    arguments = TOY | {'num_workers': 2}
    paths = collect(TOY_NAME, 3, tmp_path, num_shards=3, num_val_episodes=1, **arguments)
    folder = tmp_path / TOY_NAME
    assert list(tmp_path.iterdir()) == [folder]
    assert paths == [folder / f'{TOY_NAME}-{i:03d}.npz' for i in range(3)]
    whole, shards = read(toy / f'{TOY_NAME}.npz'), [read(path) for path in paths]
    for key, rows in whole.items():
        assert np.concatenate([shard[key] for shard in shards]).tobytes() == rows.tobytes()
    val = f'{TOY_NAME}-val.npz'
    assert (folder / val).read_bytes() == (toy / val).read_bytes()
    (other,) = collect(TOY_NAME, 3, tmp_path / 'other', seed=1, **TOY)
    assert read(other)['actions'].tobytes() != whole['actions'].tobytes()


def test_a_collection_waits_for_another_and_uses_its_files(tmp_path, toy, capsys):
    found = []

    def collect_too():
        found.extend(collect(TOY_NAME, 3, tmp_path, num_val_episodes=1, **TOY))

    thread = threading.Thread(target=collect_too)
    with locks.hold(tmp_path / f'{TOY_NAME}.lock', tmp_path):
        thread.start()
        while f'watch {tmp_path}/{TOY_NAME}.part grow' not in capsys.readouterr().err:
            time.sleep(0.01)
        for path in toy.iterdir():
            shutil.copy2(path, tmp_path)
        before = (tmp_path / f'{TOY_NAME}.npz').stat().st_mtime_ns
    thread.join()
    assert found == [tmp_path / f'{TOY_NAME}.npz']
    assert found[0].stat().st_mtime_ns == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize('other', [{'seed': 1}, {'num_shards': 3}])
def test_what_other_arguments_collected_is_not_overwritten(tmp_path, toy, other):
    shutil.copytree(toy, tmp_path, dirs_exist_ok=True)
    arguments = {'num_episodes': 3, 'num_val_episodes': 1} | other
    with pytest.raises(UserError, match=f'{tmp_path}/{TOY_NAME}.*exists: delete it or choose'):
        collect(TOY_NAME, save_dir=tmp_path, **arguments, **TOY)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_collection_that_was_killed_does_not_block_the_next(tmp_path):
    part = tmp_path / f'{TOY_NAME}.part'
    part.mkdir()
    for path in (part / f'{TOY_NAME}.npz', tmp_path / f'{TOY_NAME}.lock'):
        path.touch()
    for end in ('.json', '-val.npz'):  # killed while it published: these are moved first
        (tmp_path / f'{TOY_NAME}{end}').touch()
    collect(TOY_NAME, 3, tmp_path, num_val_episodes=1, **TOY)
    assert len(list(tmp_path.iterdir())) == 3
    assert json.loads((tmp_path / f'{TOY_NAME}.json').read_text())['episodes'] == 3


class Wrong(toy_suite.Toy):
    """A suite whose script plays no episodes."""

    def make_script(self, dataset_name):
        return self

    def play(self, seed):
        return {'observations': np.zeros((3, 3)), 'terminals': np.zeros(3, bool)}


class Scriptless(toy_suite.Toy):
    """A suite whose data has a name and no script."""

    make_script = Suite.make_script


@pytest.mark.parametrize(
    ('suite', 'message'),
    [
        (Wrong(), r'a script returned an episode of 3 rows with terminals True in rows \[\]; only'),
        (Scriptless(), f'{TOY_NAME}: suite toy has no script to collect data with'),
    ],
)
def test_what_is_wrong_with_a_script_is_said_in_a_line(tmp_path, suite, message, capfd):
    with pytest.raises(UserError, match=message):
        collect(TOY_NAME, 3, tmp_path, num_workers=2, suite=suite)
    assert 'Traceback' not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=f'^--save_dir={tmp_path}/file: cannot be written'):
        collect(TOY_NAME, 3, tmp_path / 'file', **TOY)


# ---- processes ----------------------------------------------------------------------------------

TESTS = Path(__file__).parent
WITH_TESTS = {**os.environ, 'PYTHONPATH': f'{TESTS.parent}:{TESTS}'}
LINUX = pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='looks into /proc')


def worker_pids(pid):
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [int(c) for c in children if b'spawn_main' in Path(f'/proc/{c}/cmdline').read_bytes()]


def start_collection(directory, *flags):
    """Starts a collection that takes long; returns it when its workers are there."""
    command = [sys.executable, '-m', 'envs.collect', '--suite=toy_suite:suite', *flags]
    command += [f'--env_name={TOY_NAME}', '--num_episodes=50000', '--num_workers=2']
    process = subprocess.Popen(
        [*command, f'--save_dir={directory}'],
        env=WITH_TESTS,
        cwd=TESTS.parent,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Programs that a shell starts in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(workers := worker_pids(process.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, workers


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize(
    ('victim', 'number', 'status', 'message'),
    [
        ('collector', signal.SIGTERM, 1, 'Interrupted: nothing was saved'),
        ('collector', signal.SIGKILL, -signal.SIGKILL, ''),
        ('worker', signal.SIGKILL, 1, 'a worker process died'),
        ('starter', None, 1, 'Interrupted'),
    ],
)
def test_a_collection_that_ends_early_leaves_no_process_and_no_files(
    tmp_path, victim, number, status, message
):
    """A collector whose parent is gone does the same: its standard input closes."""
    flags = ['--end_with_stdin'] if victim == 'starter' else []
    process, workers = start_collection(tmp_path, *flags)
    if victim == 'starter':
        process.send_signal(signal.SIGINT)  # is for the starter to judge
    else:
        os.kill(process.pid if victim == 'collector' else workers[-1], number)
    _, errors = process.communicate(timeout=30)  # until all that could write are gone
    assert process.returncode == status
    assert message in errors
    assert 'Traceback' not in errors
    if status == 1:
        assert not any(Path(f'/proc/{pid}').exists() for pid in workers)
        assert list(tmp_path.iterdir()) == []


@LINUX
@pytest.mark.slow
def test_a_collection_ends_with_a_program_that_is_killed(tmp_path):
    code = """
    import os, pathlib, signal, sys, threading, time
    import toy_suite
    from envs.datasets import collect_arguments, run_collection

    directory = pathlib.Path(sys.argv[1])

    def end():
        while not any(directory.glob('*.part')):
            time.sleep(0.01)
        print(flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end).start()
    suite = 'toy_suite:suite'
    run_collection(collect_arguments(toy_suite.DATASET, 50_000, 1, suite, directory), 0, 1)
    """
    directory = tmp_path / 'data'
    with subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(code), directory],
        env=WITH_TESTS,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        errors = process.stderr.read()  # of the collection, too: until that has ended
    assert process.returncode == -signal.SIGKILL
    assert 'Traceback' not in errors
    assert list(directory.iterdir()) == []


@pytest.mark.slow
def test_what_ctrl_c_means_the_collector_decides_while_workers_import(tmp_path, monkeypatch):
    """A signal to all processes of a program must not end a worker, or have it say something."""
    code = f"""
    import os, signal
    import toy_suite

    if os.getpid() != {os.getpid()}:  # a worker imports this
        os.kill(os.getpid(), signal.SIGINT)

    class Struck(toy_suite.Toy):
        pass

    suite = Struck()
    """
    (tmp_path / 'struck.py').write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    suite = importlib.import_module('struck').suite
    (path,) = collect(toy_suite.DATASET, 2, tmp_path / 'data', num_workers=1, suite=suite)
    assert len(read(path)['terminals']) > 0
