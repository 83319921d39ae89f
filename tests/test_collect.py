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
from envs.ogbench.scripts import PlayScript
from envs.ogbench.tasks import EPISODE_ROWS
from utils.errors import UserError

NAME = 'cube-double-play-v0'


@pytest.fixture(scope='module')
def collection(collected):
    """Two training episodes and one for validation, collected by two processes."""
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
    script = PlayScript(NAME)
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


@pytest.mark.parametrize('end', ['.npz', '-val.npz', '-000.npz', ''])
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


@pytest.mark.parametrize(
    'other', [{'num_episodes': 4}, {'seed': 1}, {'num_val_episodes': 0}, {'num_shards': 3}]
)
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


def full_disk(*_):
    raise OSError(28, 'No space left on device')


@pytest.mark.parametrize(
    ('save_dir', 'message'),
    [
        ('file', r'File exists at \S+/file\)'),
        ('file/below', r'Not a directory at \S+/file/below\)'),
        ('x', r'No space left on device\)'),
    ],
)
def test_a_directory_that_cannot_be_written_is_named(tmp_path, monkeypatch, save_dir, message):
    (tmp_path / 'file').touch()
    monkeypatch.setattr('envs.npz.write_npz', full_disk)
    fix = 'choose a writable directory with enough space$'
    with pytest.raises(
        UserError, match=f'^--save_dir={tmp_path}/{save_dir}: cannot be written .{message}; {fix}'
    ):
        collect(TOY_NAME, 3, tmp_path / save_dir, **TOY)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--save_dir={file}'], '--save_dir={file}: cannot be written (File exists at {file});'),
        (['--save_dir={file}', 'more'], "'more': not a flag; flags start with --"),
    ],
)
def test_the_program_says_what_is_wrong_in_a_line(tmp_path, arguments, message, programs):
    file = tmp_path / 'file'
    file.touch()
    arguments = [argument.format(file=file) for argument in arguments]
    run = programs('envs.collect', f'--env_name={NAME}', '--num_episodes=1', *arguments)
    assert run.returncode == 1
    assert 'Traceback' not in run.stderr
    assert run.stderr.splitlines()[-1].startswith(message.format(file=file))


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
@pytest.mark.parametrize(
    ('victim', 'number', 'status', 'message'),
    [
        ('collector', signal.SIGINT, 1, 'Interrupted: nothing was saved'),
        ('collector', signal.SIGTERM, 1, 'Interrupted: nothing was saved'),
        ('collector', signal.SIGKILL, -signal.SIGKILL, ''),
        ('worker', signal.SIGKILL, 1, 'a worker process died'),
        ('starter', None, 1, 'Interrupted'),
    ],
)
def test_a_collection_that_ends_early_leaves_no_process_and_no_files(
    tmp_path, victim, number, status, message
):
    """So does one whose starter is gone, which closes its standard input."""
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


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_what_ctrl_c_means_the_collector_decides_while_workers_import(tmp_path, monkeypatch, name):
    """A signal to all processes of a program must not end a worker, or have it say something."""
    code = f"""
    import os, signal
    import toy_suite

    if os.getpid() != {os.getpid()}:  # a worker imports this
        os.kill(os.getpid(), signal.{name})

    class Struck(toy_suite.Toy):
        pass

    suite = Struck()
    """
    (tmp_path / f'struck_by_{name}.py').write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    suite = importlib.import_module(f'struck_by_{name}').suite
    (path,) = collect(toy_suite.DATASET, 2, tmp_path / 'data', num_workers=1, suite=suite)
    assert len(read(path)['terminals']) > 0


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere GLFW has its library elsewhere')
def test_a_simulators_imports_start_no_program():
    """Such a program outlives a worker that is killed, and complains."""
    code = """
    import os, subprocess
    from envs.processes import glfw_found

    os.environ.update(glfw_found())
    subprocess.Popen = None
    import envs.ogbench.tasks
    """
    subprocess.run([sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code)], check=True)
