"""Scripted collection: what the files hold, equal seeds, failures that leave nothing behind."""

import contextlib
import importlib
import json
import os
import re
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
from envs.collect import _reserve, collect
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


@pytest.mark.parametrize('end', ['.npz', '-val.npz', '.json', '-000.npz', ''])
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


def test_a_collection_waits_for_another_and_uses_its_files(tmp_path, toy, monkeypatch, capsys):
    monkeypatch.setattr(locks, 'POLL', 0.01)
    found = []

    def collect_too():
        found.extend(collect(TOY_NAME, 3, tmp_path, num_val_episodes=1, **TOY))

    thread = threading.Thread(target=collect_too)
    with locks.hold(tmp_path / f'{TOY_NAME}.lock', 'collecting'):
        thread.start()
        while f'Waiting for process {os.getpid()} on ' not in capsys.readouterr().err:
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


def test_a_collection_that_lost_its_lock_publishes_nothing(tmp_path, monkeypatch):
    def lose(*_):
        (tmp_path / f'{TOY_NAME}.lock').unlink(missing_ok=True)

    monkeypatch.setattr('envs.collect.write_npz', lose)
    with pytest.raises(UserError, match=r'\.lock: another process took over'):
        collect(TOY_NAME, 3, tmp_path, num_val_episodes=1, **TOY)
    assert list(tmp_path.iterdir()) == []


def reserve(directory):
    return _reserve(directory, NAME, '.npz', {})


def leave_a_part(directory, end='.elsewhere-42-ab.part'):
    """Leaves what a killed collection does; returns it."""
    part = directory / f'{NAME}{end}'
    (part / NAME).mkdir(parents=True)
    for name in (f'{NAME}.npz', f'{NAME}/{NAME}-000.npz'):
        (part / name).touch()
    return part


def test_unfinished_files_carry_the_name_of_their_owner(tmp_path):
    with reserve(tmp_path) as (found, part, _):
        assert found == []
        assert re.fullmatch(rf'{NAME}\.\S+-{os.getpid()}-[0-9a-f]{{8}}\.part', part.name)
        holder = json.loads((tmp_path / f'{NAME}.lock').read_text())
        assert part.name.endswith(f'{holder["token"]}.part')
    assert list(tmp_path.iterdir()) == []


def test_what_killed_collections_and_downloads_left_is_removed(tmp_path):
    for end in ('.part', '.elsewhere-42-ab.part', '.here-42-cd.part'):
        leave_a_part(tmp_path, end)
    (tmp_path / f'{NAME}.npz.part').touch()
    (tmp_path / f'{NAME}.lock').write_text('{}')
    other = tmp_path / f'{NAME}-x.part'
    other.touch()
    with reserve(tmp_path) as (_, part, _):
        assert list(part.iterdir()) == []
        assert {path.suffix for path in tmp_path.iterdir()} == {'.part', '.lock'}
        assert len(list(tmp_path.iterdir())) == 3
    assert list(tmp_path.iterdir()) == [other]


def test_a_collection_killed_while_it_published_does_not_block_the_next(tmp_path):
    leave_a_part(tmp_path)
    for end in ('-val.npz', '.json'):  # these are moved first
        (tmp_path / f'{NAME}{end}').touch()
    with reserve(tmp_path) as (_, part, _):
        assert {path.name for path in tmp_path.iterdir()} == {part.name, f'{NAME}.lock'}


def test_what_a_killed_collection_left_does_not_allow_to_overwrite(tmp_path):
    leave_a_part(tmp_path)
    path = tmp_path / f'{NAME}.npz'
    path.touch()
    with pytest.raises(UserError, match=f'{path} exists'):
        collect(NAME, 1, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('number', [0, 1, 2])
def test_a_collection_stopped_while_it_publishes_leaves_nothing(tmp_path, monkeypatch, number):
    rename, renamed = Path.rename, []

    def rename_or_stop(path, target):
        if len(renamed) == number:
            raise KeyboardInterrupt
        renamed.append(target)
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', rename_or_stop)
    with pytest.raises(KeyboardInterrupt):
        collect(TOY_NAME, 3, tmp_path, num_val_episodes=1, **TOY)
    assert list(tmp_path.iterdir()) == []


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
        (Wrong(), r'a script played an episode of 3 rows with terminals True in rows \[\]; only'),
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


def forbidden(path, *_, **__):
    raise PermissionError(13, 'Permission denied', str(path))


@pytest.mark.parametrize(
    ('broken', 'save_dir', 'message'),
    [
        (None, 'file', r'File exists at \S+/file\)'),
        (None, 'file/below', r'Not a directory at \S+/file/below\)'),
        (('envs.collect.write_npz', full_disk), 'x', r'No space left on device\)'),
        (('pathlib.Path.mkdir', forbidden), 'x', r'Permission denied at \S+/x\)'),
        (('envs.locks._read_holder', full_disk), 'x', r'No space left on device\)'),
    ],
)
def test_a_directory_that_cannot_be_written_is_named(
    tmp_path, monkeypatch, broken, save_dir, message
):
    (tmp_path / 'file').touch()
    if broken:
        monkeypatch.setattr(*broken)
    fix = 'choose a directory of yours with room for the data$'
    with pytest.raises(
        UserError, match=f'^--save_dir={tmp_path}/{save_dir}: cannot be written .{message}; {fix}'
    ):
        collect(TOY_NAME, 3, tmp_path / save_dir, **TOY)


def test_workers_that_cannot_be_started_are_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise BlockingIOError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr('multiprocessing.context.SpawnProcess.start', refuse)
    with pytest.raises(UserError, match=r'--num_workers=1: only 0 could be started \(Resource'):
        collect(TOY_NAME, 3, tmp_path, **TOY)
    assert list(tmp_path.iterdir()) == []


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
            assert len(list(tmp_path.glob(f'{NAME}.*.part'))) == 1
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


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGUSR1'])
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


def processes_with(text):
    """Returns the processes that have `text` in their command line."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='finds processes through /proc')
@pytest.mark.parametrize('moment', ['at once', 'at work'])
def test_a_collection_ends_with_a_program_that_is_killed(tmp_path, moment):
    """Also if it is killed before the collection could look."""
    code = """
    import os, pathlib, signal, sys, threading, time
    import toy_suite
    from envs.datasets import collect_command, run_collection

    directory = pathlib.Path(sys.argv[1])

    def end():
        while sys.argv[2] == 'at work' and not any(directory.glob('*.part')):
            time.sleep(0.01)
        time.sleep(0.1)
        print(flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end).start()
    command = collect_command(toy_suite.DATASET, 10**6, suite=toy_suite.suite)
    run_collection(command, directory, 0, 1)
    """
    tests = Path(__file__).parent
    directory = tmp_path / 'data'
    with subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(code), directory, moment],
        env={**os.environ, 'PYTHONPATH': f'{tests.parent}:{tests}'},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        errors = process.stderr.read()  # of the collection, too: until that has ended
    assert process.returncode == -signal.SIGKILL
    assert processes_with(f'--save_dir={directory}') == []
    assert 'Traceback' not in errors
    assert not directory.exists() or list(directory.iterdir()) == []


def test_a_collection_ends_even_if_its_interruption_is_lost():
    code = """
    import time
    from envs import collect

    collect.TIME_TO_CLEAN_UP = 0.5
    collect._stop_on_signals(end_with_stdin=True)
    message = 'ready\\n'
    while True:
        try:
            ready, message = message, ''
            print(ready, end='', flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print('lost', flush=True)
    """
    with subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == 'ready\n'
        output, _ = process.communicate(timeout=10)
    assert output == 'lost\n'
    assert process.returncode == 1
