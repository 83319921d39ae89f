"""Shared by the processes of simulators and of data collection."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker

# What a terminal, a scheduler or a quota sends before it kills.
SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    signal.SIGXCPU,
    *((signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else ()),  # nohup
)


def num_cores() -> int:
    """Returns the number of cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes in this context: without the main program, and with `SIGNALS` blocked.

    `multiprocessing` runs the main program's file again in each process it starts: it would repeat
    its imports (jax, matplotlib), and a program without `if __name__ == '__main__'` would start
    processes in turn. An empty module in its place prevents that. This process gets the signals at
    the end.
    """
    # This starts a process at its first call only, and unblocks signals meanwhile.
    resource_tracker.ensure_running()
    main, before = sys.modules['__main__'], signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sys.modules['__main__'] = types.ModuleType('__main__')
    try:
        yield
    finally:
        sys.modules['__main__'] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def environment_variables(**values: str | None) -> Iterator[None]:
    """Sets environment variables (None: unsets) in this context, for processes started there."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name in values:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in values.items() if value is not None})


def import_mujoco(name: str) -> None:
    """Imports a module that imports MuJoCo, also where MUJOCO_GL names what does not work here.

    In that case this process cannot render, and an attempt to do so fails.
    """
    try:
        importlib.import_module(name)
    except Exception:  # whatever the renderer's own import raises
        with environment_variables(MUJOCO_GL='disable', MUJOCO_EGL_DEVICE_ID=None):
            importlib.import_module(name)


def obey_parent_alone() -> None:
    """Makes this process ignore signals, and exit silently when the parent dies.

    Ctrl-C and Slurm signal all processes of a program; the parent decides what to do.
    """

    def exit_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=exit_with_parent, daemon=True).start()
