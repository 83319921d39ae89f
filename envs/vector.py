"""Parallel environments, each in a process of its own that imports neither jax nor matplotlib."""

import atexit
import contextlib
import os
import signal
import weakref
from collections.abc import Iterator
from functools import partial
from multiprocessing import forkserver, resource_tracker

import gymnasium
import numpy as np
from gymnasium.vector.async_vector_env import AsyncVectorEnv, _async_worker

from envs.episodes import ActionChunks, EndlessPlay, EpisodeQueue
from envs.processes import SIGNALS, obey_parent_alone, python_path, without_main
from envs.suite import Suite, Task
from utils.errors import UserError

MODES = {'evaluate': EpisodeQueue, 'play': EndlessPlay}

_open: weakref.WeakSet['ParallelEnvs'] = weakref.WeakSet()


def make_vector_env(
    task: Task | str, num_envs: int, horizon_length: int, mode: str, **options
) -> 'ParallelEnvs':
    """Makes parallel environments, each in a process of its own.

    They end when `end` is called, at the end of the program, and when the program is killed.

    Args:
        task: as for `make_env`, like the `options`.
        num_envs: how many.
        horizon_length: actions in a chunk.
        mode: 'evaluate' for environments that play lists of episodes (`EpisodeQueue` of
            `envs.episodes`), 'play' for the online phase (`EndlessPlay`).

    Raises:
        UserError: no such environment, option or mode.
        UserError: a process died, here or later, when the environments are used.
    """
    from envs.registry import check_options, find_task

    if mode not in MODES:
        raise ValueError(f'mode={mode}: must be one of {", ".join(MODES)}')
    task = find_task(task) if isinstance(task, str) else task
    check_options(task, options)
    start_workers(task)
    make = partial(_make_worker_env, task, horizon_length, mode, **options)
    return ParallelEnvs([make] * num_envs)


def _make_worker_env(task: Task, horizon_length: int, mode: str, **options) -> gymnasium.Env:
    from envs.registry import make_env

    return MODES[mode](ActionChunks(make_env(task, **options), horizon_length))


def start_workers(suite: Task | Suite | None = None) -> None:
    """Starts the process that `make_vector_env` forks its own from, and returns at once.

    That process imports what the others need, once for all of them. Call this early, so that it is
    ready when environments are needed. If it runs already, nothing happens.

    Args:
        suite: whose environments will be made (or a task of it); its `preload` is imported, too.
    """
    if isinstance(suite, Task):
        suite = suite.suite
    modules = suite.preload if suite is not None else ()
    forkserver.set_forkserver_preload(['envs.vector', 'envs.registry', *modules])
    # The first of these starts a process only once, and lifts a block of signals while it does.
    with _signals_held_back():
        resource_tracker.ensure_running()
    with _signals_held_back(), without_main(), _shared_path():
        forkserver.ensure_running()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Blocks `SIGNALS` meanwhile. Processes that are started inherit the block.

    This process gets the signals afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _shared_path() -> Iterator[None]:
    """Lets the fork server find what we find; before Python 3.13 it is told nothing of sys.path."""
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = python_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before


class ParallelEnvs(AsyncVectorEnv):
    """Gymnasium's parallel environments. Only their parent stops the processes, and at once."""

    def __init__(self, env_fns):
        try:
            with without_main(), _explained():
                super().__init__(env_fns, context='forkserver', worker=_work)
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def step_async(self, actions):
        # As NumPy arrays: to unpickle those of jax, the processes would import it.
        parts = isinstance(actions, tuple)
        actions = tuple(map(np.asarray, actions)) if parts else np.asarray(actions)
        with _explained():
            super().step_async(actions)

    def step_wait(self, timeout=None):
        with _explained():
            return super().step_wait(timeout)

    def reset_async(self, seed=None, options=None):
        with _explained():
            super().reset_async(seed, options)

    def reset_wait(self, timeout=None):
        with _explained():
            return super().reset_wait(timeout)

    def close_extras(self, timeout=None, terminate=True):
        """Kills the processes, whatever they do: they hold nothing that could be lost."""
        processes = getattr(self, 'processes', ())  # none if the first environment failed
        for process in processes:
            if process.is_alive():
                process.kill()
        for pipe in getattr(self, 'parent_pipes', ()):
            if pipe is not None:
                pipe.close()
        for process in processes:
            process.join()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise UserError(
            "a simulator's process died; its own message, if any, is above. "
            'Memory may have run out: try fewer environments'
        ) from error


def end(env: gymnasium.vector.VectorEnv) -> None:
    """Ends the processes of `make_vector_env` at once, in the middle of a step if need be.

    May be called again. Without it they end with the program.
    """
    env.close()


@atexit.register
def _end_all() -> None:  # runs before multiprocessing waits for processes that are still there
    for env in list(_open):
        end(env)


def _work(*args) -> None:
    obey_parent_alone()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone
        _async_worker(*args)
