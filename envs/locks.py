"""Locks: if several processes need the same file, one makes it and the others wait."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


def acquire(path: Path, timeout: float) -> FileLock:
    """Acquires the lock of a file, created if missing; the caller must `release()` it.

    On a file system without locks it warns, and nothing is locked.

    Args:
        path: of the file.
        timeout: seconds to wait for another holder, −1: forever.

    Raises:
        Timeout: another process holds it.
        OSError: the file cannot be created.
    """
    path.touch()  # errors after this come from the lock itself
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout, poll_interval=0.2)
    except Timeout:
        raise
    except OSError as error:
        no_locks = f'this file system has no locks ({error.strerror})'
        logging.warning('%s: %s; start no other process that writes beside it.', path, no_locks)
    return lock


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; False if the file system cannot tell."""
    if not path.exists():
        return False
    try:
        FileLock(path, fallback_to_soft=False).acquire(0).lock.release()
    except Timeout:
        return True
    except OSError:
        pass
    return False


@contextlib.contextmanager
def hold(path: Path, unfinished: Path) -> Iterator[None]:
    """Holds a lock; while another process holds it, waits and prints a line to stderr.

    Args:
        path: of the lock's file in an existing directory. It is removed at the end.
        unfinished: the other process's growing file, for that line.

    Raises:
        OSError: the file cannot be created.
    """
    try:
        lock = acquire(path, 0)
    except Timeout:
        watch = f'watch {unfinished} grow (its lock: {path})'
        print(f'Waiting for another process that makes the same data; {watch}', file=sys.stderr)
        lock = acquire(path, -1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while held; waiting processes create another
        lock.release()
