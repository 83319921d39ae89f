"""Locks: one holder at a time, others wait and say for whom; nobody waits for the dead."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from envs import locks
from utils.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, 'POLL', 0.01)


def write_holder(path, **changes):
    holder = {'host': 'elsewhere', 'boot': 'x', 'pid': 42, 'token': 'ab', 'work': 'collecting',
              'since': 'noon'} | changes  # fmt: skip
    path.write_text(json.dumps(holder))
    return holder


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_says_who_holds_it_and_is_removed_at_the_end(tmp_path):
    path = tmp_path / 'x.lock'
    with locks.hold(path, 'collecting') as lock:
        holder = json.loads(path.read_text())
        assert (holder['pid'], holder['work']) == (os.getpid(), 'collecting')
        assert lock.token.endswith(f'-{os.getpid()}-{holder["token"]}')
        lock.check()
    assert not path.exists()


def test_others_wait_for_the_holder_and_say_so_once(tmp_path, capsys):
    path, order = tmp_path / 'x.lock', []

    def work(number):
        with locks.hold(path, f'job {number}'):
            order.append(number)
            time.sleep(0.1)
            order.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6
    assert all(f'Waiting for process {os.getpid()} on ' in line for line in lines)
    assert all(f'its lock is {path}' in line for line in lines)
    assert not path.exists()


def test_a_holder_that_has_not_written_who_it_is_is_waited_for_without_a_word(tmp_path, capsys):
    waiting = locks._Waiting(tmp_path / 'x.lock')
    for holder in ({}, {'pid': 3, 'host': 'there'}, {}):
        waiting.say(holder)
    assert capsys.readouterr().err.count('Waiting for process 3 on there') == 1


def test_a_holder_that_was_killed_is_not_waited_for(tmp_path, capsys):
    path = tmp_path / 'x.lock'
    code = 'import sys, time, pathlib; from envs import locks\n'
    code += 'with locks.hold(pathlib.Path(sys.argv[1]), "downloading"):\n    time.sleep(60)'
    with subprocess.Popen([sys.executable, '-c', code, path]) as process:
        wait_for(lambda: path.exists() and path.read_text())
        taken = threading.Event()

        def take():
            with locks.hold(path, 'collecting'):
                taken.set()

        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0.1)
        assert not taken.is_set()
        process.kill()
        thread.join(10)
    assert taken.is_set()
    assert f'Waiting for process {process.pid}' in capsys.readouterr().err


def test_a_holder_on_another_machine_lives_as_long_as_it_touches_its_lock(
    tmp_path, monkeypatch, capsys
):
    """What one machine locks with `flock`, another need not see."""
    monkeypatch.setattr(locks, 'LEASE', 0.4)
    path = tmp_path / 'x.lock'
    write_holder(path)
    taken = threading.Event()

    def take():
        with locks.hold(path, 'collecting'):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    for i in range(10):
        time.sleep(0.1)
        os.utime(path, (i, i))  # by the clock of whatever machine
        assert not taken.is_set()
    thread.join(10)
    assert taken.is_set()
    assert 'Waiting for process 42 on elsewhere (collecting since noon)' in capsys.readouterr().err


def test_the_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'BEAT', 0.01)
    path = tmp_path / 'x.lock'
    with locks.hold(path, 'collecting'):
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > 0)


@pytest.mark.parametrize(
    'content', ['', 'nonsense', '[]', '{"pid": "1"}', '{"pid": -1}', '[' * 4000, '\x00\xff']
)
def test_a_lock_that_says_nothing_is_taken(tmp_path, content):
    path = tmp_path / 'x.lock'
    path.write_text(content)
    with locks.hold(path, 'collecting'):
        assert json.loads(path.read_text())['pid'] == os.getpid()


@pytest.mark.parametrize(
    ('pid', 'waits'), [(os.getpid(), True), (2**22 + 1, False)], ids=['alive', 'gone']
)
def test_without_flock_the_process_itself_is_asked_for(tmp_path, monkeypatch, pid, waits):
    monkeypatch.setattr(locks, 'flock', lambda _: None)
    path = tmp_path / 'x.lock'
    write_holder(path, host=locks.socket.gethostname(), pid=pid)
    assert locks.Lock(path, 'collecting')._take(locks._Waiting(path)) != waits


def test_a_lock_that_was_taken_over_is_noticed_and_left_alone(tmp_path):
    path = tmp_path / 'x.lock'
    with locks.hold(path, 'collecting') as lock:
        write_holder(path)
        with pytest.raises(UserError, match=f'{path}: another process took over'):
            lock.check()
    assert json.loads(path.read_text())['pid'] == 42
    with locks.hold(tmp_path / 'y.lock', 'collecting') as lock:
        (tmp_path / 'y.lock').unlink()
        (tmp_path / 'y.lock').touch()
        with pytest.raises(UserError, match='took over'):
            lock.check()
    assert (tmp_path / 'y.lock').exists()


def test_a_lock_whose_holder_fails_is_released(tmp_path):
    with contextlib.suppress(RuntimeError), locks.hold(tmp_path / 'x.lock', 'collecting'):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('file_name', 'is_unfinished'),
    [
        ('x-v0.part', True),
        ('x-v0.host.name-12-ab.part', True),
        ('x-v0.npz.part', True),
        ('x-v0.npz.123.part', True),
        ('x-v0.npz', False),
        ('x-v0-val.part', False),
        ('xx-v0.part', False),
        ('x-v0.lock', False),
    ],
)
def test_unfinished_files_are_known_by_their_names(file_name, is_unfinished):
    assert locks.is_unfinished(file_name, 'x-v0') == is_unfinished


@pytest.mark.parametrize(
    'function', ['os.open', 'flock', '_read_holder', 'os.ftruncate', 'os.fsync']
)
def test_a_signal_while_the_lock_is_taken_leaves_none(tmp_path, monkeypatch, function):
    module, name = (locks.os, function[3:]) if function[:3] == 'os.' else (locks, function)
    before = getattr(module, name)

    def interrupt(*arguments):
        monkeypatch.setattr(module, name, before)
        before(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupt)
    with pytest.raises(KeyboardInterrupt), locks.hold(tmp_path / 'x.lock', 'collecting'):
        pass
    assert list(tmp_path.iterdir()) == []
    with locks.hold(tmp_path / 'x.lock', 'collecting'):
        pass
    assert list(tmp_path.iterdir()) == []
