"""Locks on files that are being made: one process makes them, others wait and use the result.

A lock is a file that says who holds it, with `flock` on it. On one machine the kernel knows whether
the holder lives. Machines that share a directory may not see each other's `flock`, so the holder
also touches the file now and then: a holder on another machine is gone when nothing touches it any
more.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError

BEAT = 15.0  # seconds between two touches
LEASE = 180.0  # seconds without one after which a holder on another machine is gone
POLL = 0.5  # seconds between two looks at a lock that is held


class Lock:
    """A lock that this process holds, from `hold`."""

    def __init__(self, path: Path, work: str):
        self.path = path
        self._holder = {
            'host': socket.gethostname(),
            'boot': _boot(),
            'pid': os.getpid(),
            'token': secrets.token_hex(4),
            'work': work,
            'since': time.strftime('%Y-%m-%d %H:%M:%S'),
        }
        self._file: int | None = None
        self._is_opening = False

    @property
    def token(self) -> str:
        """<host>-<process>-<random>: names what this holder has not finished."""
        host = re.sub(r'[^\w.-]', '', str(self._holder['host']))
        return f'{host}-{self._holder["pid"]}-{self._holder["token"]}'

    def check(self) -> None:
        """Raises UserError if another process took the lock, as this one gave no sign of life."""
        if not self._is_ours():
            raise UserError(
                f'{self.path}: another process took over, as this one was silent for more than '
                f'{LEASE:.0f} s; start again'
            )

    def _is_ours(self) -> bool:
        file = self._file
        return file is not None and _is_at(file, self.path) and _read_holder(file) == self._holder

    def _take(self, waiting: '_Waiting') -> bool:
        """Takes the lock if it is free or its holder is gone."""
        self._is_opening = True
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self._is_opening = False
        is_free = flock(self._file)
        if not _is_at(self._file, self.path):
            return False  # its holder removed it meanwhile
        other = _read_holder(self._file)
        if is_free is False or waiting.lives(other, self._file, is_free):
            waiting.say(other)
            return False
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(self._holder).encode(), 0)
        os.fsync(self._file)  # for other machines
        return True

    def _touch(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _leave(self) -> None:
        """Removes the lock if this process holds it."""
        if self._file is None and self._is_opening:
            # A signal may have come between the making of the file and the assignment.
            with contextlib.suppress(OSError):
                self._file = os.open(self.path, os.O_RDWR)
        if self._file is not None:
            with contextlib.suppress(OSError):
                # A signal may have come before this process could write into it.
                is_new = flock(self._file) and not os.fstat(self._file).st_size
                if self._is_ours() or (is_new and _is_at(self._file, self.path)):
                    self.path.unlink()  # while it is locked, so that it is nobody else's
            os.close(self._file)
            self._file = None


def is_unfinished(file_name: str, name: str) -> bool:
    """Tells whether a file or folder is what a download or collection of `name` did not finish."""
    return re.fullmatch(rf'{re.escape(name)}\.(.+\.)?part', file_name) is not None


@contextlib.contextmanager
def hold(path: Path, work: str) -> Iterator[Lock]:
    """Holds a lock; waits while another process holds it, and says so in one line on stderr.

    Args:
        path: of the lock, a file in an existing directory. It is removed at the end.
        work: what this process does meanwhile, such as 'collecting', for the line of others.

    Raises:
        OSError: the file cannot be made.
    """
    lock, waiting, stop = Lock(path, work), _Waiting(path), threading.Event()
    thread = threading.Thread(target=_beat, args=(lock, stop), daemon=True)
    try:
        while not lock._take(waiting):
            lock._leave()
            time.sleep(POLL)
        thread.start()
        yield lock
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()  # so that it does not touch what gets the number of the closed file
        lock._leave()


def _beat(lock: Lock, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        lock._touch()


def flock(file: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Locks a file if it is free; returns whether it was, None if the file system cannot tell."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        return None
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _boot() -> str | None:
    """Returns what names the running kernel, which containers on one machine share."""
    with contextlib.suppress(OSError):
        return Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return None


def _read_holder(file: int) -> dict[str, Any]:
    """Returns who wrote a lock, or an empty dict if that cannot be known."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        holder = json.loads(os.pread(file, 1 << 12, 0))
        if isinstance(holder, dict) and isinstance(holder.get('pid'), int) and holder['pid'] > 0:
            return holder
    return {}


class _Waiting:
    """What is known of the holders that this process waits for."""

    def __init__(self, path: Path):
        self._path = path
        self._said: dict[str, Any] = {}
        self._touched, self._seen = 0, 0.0

    def lives(self, holder: dict[str, Any], file: int, is_free: bool | None) -> bool:
        """Tells whether a holder lives, of whom `flock` does not say that he does."""
        if not holder:
            return False
        if holder.get('host') == socket.gethostname() or holder.get('boot', '') == _boot():
            return is_free is None and _is_process(holder['pid'])
        touched = os.fstat(file).st_mtime_ns
        if touched != self._touched:
            self._touched, self._seen = touched, time.monotonic()
        return time.monotonic() - self._seen < LEASE

    def say(self, holder: dict[str, Any]) -> None:
        """Says once for whom this process waits, as soon as the holder has written who it is."""
        if not holder or holder == self._said:
            return
        self._said = holder
        who = f'process {holder["pid"]} on {holder.get("host")}'
        work = f'{holder.get("work")} since {holder.get("since")}'
        print(f'Waiting for {who} ({work}); its lock is {self._path}', file=sys.stderr, flush=True)


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
