"""Locks have one holder at a time; others wait and say so, but never for a dead process."""

import errno
import fcntl
import subprocess
import sys
import threading
import time

import pytest

from envs import locks


def test_others_wait_for_the_holder_say_so_once_and_leave_nothing(tmp_path, capsys):
    path, order = tmp_path / 'x.lock', []

    def work(number):
        with locks.hold(path, tmp_path / 'x.part'):
            order.append(number)
            time.sleep(0.05)
            order.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(f'watch {tmp_path}/x.part grow (its lock: {path})' in line for line in lines)
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import pathlib, sys, time
from envs import locks

path = pathlib.Path(sys.argv[1])
with locks.hold(path, path):
    print('holds it', flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_holder_that_was_killed_is_not_waited_for(tmp_path):
    path = tmp_path / 'x.lock'
    command = [sys.executable, '-c', HOLDER, path]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == 'holds it\n'
        assert locks.is_held(path)
        process.kill()
    assert not locks.is_held(path)
    with locks.hold(path, path):
        pass
    assert not locks.is_held(path)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, 'not here')

    monkeypatch.setattr(fcntl, 'flock', flock)
    path = tmp_path / 'x.lock'
    with locks.hold(path, path):
        assert not locks.is_held(path)
    assert f'{path}: this file system has no locks (not here)' in caplog.text
    assert len(caplog.records) == 1
