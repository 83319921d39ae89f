"""Parallel environments, each in a process of its own that imports neither jax nor matplotlib.

A process that dies, raises or does not answer is replaced: its episode is lost, nothing else is.
"""

import atexit
import contextlib
import faulthandler
import logging
import multiprocessing
import os
import select
import signal
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, iterate

from envs.episodes import ActionChunks, EndlessPlay, EpisodeQueue
from envs.processes import (
    environment_variables,
    glfw_found,
    obey_parent_alone,
    python_path,
    signals_held_back,
    without_main,
)
from envs.suite import Suite, Task
from utils.errors import UserError

MODES = {'evaluate': EpisodeQueue, 'play': EndlessPlay}
WORKER_TIMEOUT = 120.0  # seconds
MAX_FAILURES = 3  # in a row, of one simulator
# Seconds more, after the time is over. A program that was stopped as a whole (Ctrl-Z) finds it over
# when it goes on, and its simulators need a moment to answer.
GRACE = 1.0
SHOW_STACK = signal.SIGUSR2  # lets a simulator's process print where it is

_context = multiprocessing.get_context('forkserver')
_open: weakref.WeakSet['ParallelEnvs'] = weakref.WeakSet()


class SimulatorError(UserError):
    """A simulator failed again and again. Its own traceback, if there is one, is the error's note.

    Its environments are of no use afterwards but to be ended.
    """


def make_vector_env(
    task: Task | str,
    num_envs: int,
    horizon_length: int,
    mode: str,
    *,
    worker_timeout: float = WORKER_TIMEOUT,
    **options,
) -> 'ParallelEnvs':
    """Makes parallel environments, each in a process of its own.

    They end when `end` is called, at the end of the program, and when the program is killed.

    Args:
        task: as for `make_env`, like the `options`.
        num_envs: how many.
        horizon_length: actions in a chunk.
        mode: 'evaluate' for environments that play lists of episodes (`EpisodeQueue` of
            `envs.episodes`), 'play' for the online phase (`EndlessPlay`).
        worker_timeout: seconds without an answer after which a process is replaced.

    Raises:
        UserError: no such environment, option or mode.
        SimulatorError: an environment cannot be made; later, see `ParallelEnvs`.
    """
    from envs.registry import check_options, find_task

    if mode not in MODES:
        raise ValueError(f'mode={mode}: must be one of {", ".join(MODES)}')
    task = find_task(task) if isinstance(task, str) else task
    check_options(task, options)
    start_workers(task)
    make = partial(_make_worker_env, task, horizon_length, mode, **options)
    return ParallelEnvs(make, num_envs, f'{task.env_name} ({mode})', worker_timeout, task.suite)


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
    # Before Python 3.13 the fork server is told nothing of sys.path.
    variables = environment_variables(PYTHONPATH=python_path(), **glfw_found())
    with signals_held_back(), without_main(), variables:
        forkserver.ensure_running()


class ParallelEnvs(gymnasium.vector.VectorEnv):
    """Environments in processes of their own, asked together.

    A process that dies, raises, or does not answer in time is killed and replaced, with a warning.
    Its episode is lost; the environment's `start_again` says what comes instead and is the answer
    to the step. `info['replaced']` counts the processes replaced, 0 in other steps. A process that
    fails in `reset` or `set_attr` is replaced by one that does the same.

    Every wait raises SimulatorError when one simulator fails `MAX_FAILURES` times in a row, and at
    once for a UserError of the environment. An answer in between ends a row, unless the simulator
    then fails where it failed before: nobody waits forever for an episode that always fails.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        name: str,
        timeout: float,
        suite: Suite | None = None,
    ):
        """Starts the processes, and waits for what the first one says of its environment.

        Args:
            make: makes the environment, an `EndlessPlay` or an `EpisodeQueue`.
            num_envs: how many.
            name: of the environments, in messages.
            timeout: seconds without an answer after which a process is replaced.
            suite: of the environment, see `start_workers`.
        """
        self.num_envs, self._timeout = num_envs, timeout
        self._simulators = [
            _Simulator(f'{name}: simulator {i + 1} of {num_envs}', make, timeout, suite)
            for i in range(num_envs)
        ]
        _open.add(self)
        try:
            for simulator in self._simulators:
                simulator.start()
            self.metadata = self._ask_first('metadata')
            self.single_observation_space = self._ask_first('observation_space')
            self.single_action_space = self._ask_first('action_space')
        except BaseException:
            self.close()
            raise
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _ask_first(self, name: str) -> Any:
        """Returns an attribute of the first environment: making one here would take as long."""
        simulator = self._simulators[0]
        simulator.ask('get_wrapper_attr', name)
        return simulator.answer(time.monotonic() + self._timeout)

    @property
    def processes(self) -> list[BaseProcess]:
        """The processes that are at work now."""
        return [x.process for x in self._simulators if x.process is not None]

    def reset(self, *, seed=None, options=None):
        """Begins where `set_attr` said; seed and options have no meaning here."""
        self.reset_async()
        return self.reset_wait()

    def reset_async(self) -> None:
        """Lets the environments reset."""
        self.call_async('reset')

    def reset_wait(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the observations `[N, d_s]` and the infos that `reset_async` asked for."""
        observations, infos = zip(*self.call_wait(), strict=True)
        return self._stack(observations), self._merge(infos)

    def step(self, actions):
        """Executes the actions of all environments, `step_async` and `step_wait` in one."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions) -> None:
        """Lets the environments execute actions; those of N, stacked."""
        # As NumPy arrays: to unpickle those of jax, the processes would import it.
        parts = isinstance(actions, tuple)
        actions = tuple(map(np.asarray, actions)) if parts else np.asarray(actions)
        each = iterate(self.action_space, actions)
        for simulator, action in zip(self._simulators, each, strict=True):
            simulator.ask('step', action)

    def step_wait(self):
        """Returns observations, rewards, terminated, truncated (all `[N, …]`) and the infos."""
        observations, rewards, terminated, truncated, infos = zip(*self.call_wait(), strict=True)
        return (
            self._stack(observations),
            np.array(rewards, np.float64),
            np.array(terminated, bool),
            np.array(truncated, bool),
            self._merge(infos),
        )

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Sets an attribute of each environment, and of those that will take its place."""
        for simulator, value in zip(self._simulators, values, strict=True):
            simulator.ask('set_wrapper_attr', name, value)
        self.call_wait()

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Returns what a method of each environment returns."""
        self.call_async(name, *arguments)
        return self.call_wait()

    def call_async(self, name: str, *arguments: Any) -> None:
        """Lets each environment call a method."""
        for simulator in self._simulators:
            simulator.ask(name, *arguments)

    def call_wait(self) -> tuple[Any, ...]:
        """Returns the answers to what was asked last. All have the same time to give theirs."""
        deadline = time.monotonic() + self._timeout
        return tuple(simulator.answer(deadline) for simulator in self._simulators)

    def close_extras(self, **_) -> None:
        """Kills the processes, whatever they do: they hold nothing that could be lost."""
        for simulator in getattr(self, '_simulators', ()):  # none if making one failed
            simulator.end()

    def _stack(self, observations: Sequence[np.ndarray]) -> np.ndarray:
        return np.array(observations, self.single_observation_space.dtype)

    def _merge(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for i, info in enumerate(infos):
            merged = self._add_info(merged, info, i)
        return merged


class _Failure(Exception):
    """What a simulator did instead of answering: 'died', and what its user can do about it."""

    def __init__(self, what: str, fix: str, trace: str = ''):
        super().__init__(what)
        self.fix, self.trace = fix, trace


class _Simulator:
    """One environment in a process of its own, which is replaced when it fails.

    First `ask` for a method of the environment, then get its `answer`.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], gymnasium.Env],
        timeout: float,
        suite: Suite | None,
    ):
        self._name, self._make, self._timeout, self._suite = name, make, timeout, suite
        self.process: BaseProcess | None = None
        self._pipe: Any = None
        self._attributes: dict[str, Any] = {}
        self._asked: tuple[str, tuple] = ('', ())
        self._episode, self._answers = -1, 0  # being played; given since it began
        self._failures = 0  # in a row
        self._failed_at = -1, 0  # episode and answers before the last of them
        self._has_answered = False  # since then

    def start(self) -> None:
        """Starts a process. It makes the environment when it is asked for something."""
        start_workers(self._suite)
        self._pipe, theirs = _context.Pipe()
        self._poll = select.poll()  # the pipe's own `poll` makes another one at every call
        self._poll.register(self._pipe, select.POLLIN)
        process = _context.Process(
            target=work, args=(theirs, CloudpickleWrapper(self._make)), daemon=True
        )
        with theirs, without_main():
            process.start()
        self.process = process

    def end(self) -> None:
        """Kills the process."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()
        if self._pipe is not None:
            self._pipe.close()
        if self.process is not None:
            self.process.join()

    def ask(self, name: str, *arguments: Any) -> None:
        """Lets the environment call a method."""
        self._asked = name, arguments
        if name == 'set_wrapper_attr':
            attribute, value = arguments
            self._attributes[attribute] = value
        self._send(name, arguments)

    def answer(self, deadline: float) -> Any:
        """Returns what the method returned, or what came instead after a failure.

        Args:
            deadline: of the answer, in seconds of `time.monotonic`.

        Raises:
            SimulatorError: see `ParallelEnvs`.
        """
        replaced = 0
        while True:
            try:
                answer = self._begin_again() if replaced else self._receive(deadline)
            except _Failure as failure:
                self._count(failure)
                replaced += 1
            else:
                break
        if self._asked[0] in ('reset', 'step'):
            info = answer[-1]
            if replaced:
                info['replaced'] = replaced
            self._note_answer(info['episode'], replaced)
        return answer

    def _send(self, name: str, arguments: tuple) -> None:
        with contextlib.suppress(OSError):  # a dead process is found when it shall answer
            self._pipe.send((name, arguments))

    def _receive(self, deadline: float) -> Any:
        try:
            left = max(0.0, deadline - time.monotonic())
            if not (self._poll.poll(1000 * left) or self._poll.poll(1000 * GRACE)):
                raise self._hang()
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if kind == 'wrong':
            raise SimulatorError(content)
        if kind == 'raised':
            last_line = content.strip().splitlines()[-1]
            fix = 'its traceback is above; correct the environment'
            raise _Failure(f'raised {last_line}', fix, content)
        return content

    def _hang(self) -> _Failure:
        if self._row() == MAX_FAILURES and self.process is not None and self.process.pid:
            os.kill(self.process.pid, SHOW_STACK)
            time.sleep(GRACE / 2)
        return _Failure(
            f'gave no answer for {self._timeout:g} s',
            'where it hangs is above, if it could say; if it is slow, raise --worker_timeout',
        )

    def _death(self) -> _Failure:
        code = None
        if self.process is not None:
            self.process.join(GRACE)
            code = self.process.exitcode
        how = f'status {code}' if code is None or code >= 0 else signal.Signals(-code).name
        return _Failure(
            f'died ({how})',
            'its own message, if any, is above; memory may have run out, so try fewer environments',
        )

    def _begin_again(self) -> Any:
        """Puts another process in the place of this one, and returns its answer."""
        self.end()
        try:
            self.start()
        except (EOFError, OSError) as error:
            raise _Failure(f'could not be started ({error!r})', 'free what it needs') from error
        for name, value in self._attributes.items():
            self._ask_now('set_wrapper_attr', name, value)
        name, arguments = self._asked
        if name == 'step':
            name, arguments = 'start_again', (self._episode,)
        return self._ask_now(name, *arguments)

    def _ask_now(self, name: str, *arguments: Any) -> Any:
        self._send(name, arguments)
        return self._receive(time.monotonic() + self._timeout)

    def _row(self) -> int:
        """Returns the number of failures in a row, with the one that happens now."""
        is_elsewhere = self._failed_at != (self._episode, self._answers)
        return 1 if self._has_answered and is_elsewhere else self._failures + 1

    def _count(self, failure: _Failure) -> None:
        """Warns of a failure; raises SimulatorError if there were too many in a row."""
        self._failures = self._row()
        self._failed_at = self._episode, self._answers
        self._has_answered = False
        if self._failures < MAX_FAILURES:
            logging.warning('%s %s; it is replaced.', self._name, failure)
            return
        error = SimulatorError(
            f'{self._name} failed {MAX_FAILURES} times in a row; at last it {failure} '
            f'({failure.fix})'
        )
        if failure.trace:
            error.add_note(failure.trace.rstrip())
        raise error from None

    def _note_answer(self, episode: int, replaced: int) -> None:
        """Keeps in mind where the simulator is. A new one's first answer does not end a row."""
        goes_on = self._asked[0] == 'step' and episode == self._episode and not replaced
        self._answers = self._answers + 1 if goes_on else 0
        self._episode = episode
        self._has_answered = not replaced


def end(env: gymnasium.vector.VectorEnv) -> None:
    """Ends the processes of `make_vector_env` at once, in the middle of a step if need be.

    May be called again. Without it they end with the program.
    """
    env.close()


@atexit.register
def _end_all() -> None:  # runs before multiprocessing waits for processes that are still there
    for env in list(_open):
        end(env)


def work(pipe: Connection, make: Callable[[], gymnasium.Env]) -> None:
    """Calls methods of an environment for the parent, until that closes the pipe."""
    obey_parent_alone()
    if sys.stderr is not None:
        faulthandler.enable()
        faulthandler.register(SHOW_STACK)
    env = None
    with contextlib.suppress(EOFError, OSError):  # the parent is gone, or wants no more
        while True:
            name, arguments = pipe.recv()
            answer: tuple[str, Any]
            try:
                if env is None:
                    env = make()
                answer = 'answer', env.get_wrapper_attr(name)(*arguments)
            except UserError as error:
                answer = 'wrong', str(error)
            except Exception:
                answer = 'raised', traceback.format_exc()
            pipe.send(answer)
