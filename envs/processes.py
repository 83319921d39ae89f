"""Shared by the processes of simulators and of data collection."""

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

# What a terminal, a scheduler or a quota sends before it kills.
SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    signal.SIGXCPU,
    *((signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else ()),  # nohup
)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Hides the main program from processes started inside this context.

    `multiprocessing` runs the main program's file again in each process it starts: it would repeat
    its imports (jax, matplotlib), and a program without `if __name__ == '__main__'` would start
    processes in turn. An empty module in its place prevents that.
    """
    main = sys.modules['__main__']
    sys.modules['__main__'] = types.ModuleType('__main__')
    try:
        yield
    finally:
        sys.modules['__main__'] = main


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Blocks `SIGNALS` inside this context, also in processes started there.

    This process gets the signals at the end.
    """
    # This starts a process at its first call only, and unblocks signals meanwhile.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
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
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def import_mujoco(*names: str) -> None:
    """Imports modules that import MuJoCo, also where MUJOCO_GL names what does not work here.

    In that case this process cannot render, and an attempt to do so fails.
    """
    try:
        for name in names:
            importlib.import_module(name)
    except Exception:  # whatever the renderer's own import raises
        with environment_variables(MUJOCO_GL='disable', MUJOCO_EGL_DEVICE_ID=None):
            for name in names:
                importlib.import_module(name)


def glfw_found() -> dict[str, str]:
    """Returns an environment variable that stops GLFW from starting a program to find its library.

    MuJoCo's viewer imports GLFW, whose search prints a traceback if the process is killed
    meanwhile.
    """
    if 'PYGLFW_LIBRARY' in os.environ:
        return {}
    spec = importlib.util.find_spec('glfw')
    for folder in (spec and spec.submodule_search_locations) or ():
        library = os.path.join(folder, 'x11', 'libglfw.so')  # exists on Linux; nothing is drawn
        if os.path.isfile(library):
            return {'PYGLFW_LIBRARY': library}
    return {}


def python_path() -> str:
    """Returns `sys.path` as a PYTHONPATH, so that a child process finds the same modules."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)


def obey_parent_alone() -> None:
    """Makes this process ignore signals, and exit silently when the parent dies.

    Ctrl-C and Slurm signal all processes of a program; the parent decides what to do.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
