"""Simulators: environments, each in its own process, which imports neither jax nor matplotlib.

Environments are deterministic, so an episode is its seed and the actions executed in it. When a
simulator dies, hangs or raises, all simulators of its set are rebuilt where they were by replaying
those. A resumed run starts in the same way.
"""

import atexit
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from envs.episodes import ActionChunks, Observation, map_observation
from envs.suite import Task
from envs.workers import SimulatorError, Worker, start_fork_server
from utils.errors import UserError

WORKER_TIMEOUT = 120.0  # seconds
Answer = tuple[dict[str, Any], Observation, bool] | None  # of `ActionChunks.play`; None: failed

_open: weakref.WeakSet['Simulators'] = weakref.WeakSet()


def make_simulators(
    task: Task | str,
    num_envs: int,
    horizon_length: int,
    *,
    frame_stack: int = 1,
    worker_timeout: float = WORKER_TIMEOUT,
    **options,
) -> 'Simulators':
    """Starts simulators, without waiting for them to be ready.

    They end with `end`, with the program, and when the program is killed.

    Args:
        task: see `make_env`, also for `options`.
        num_envs: number of simulators.
        horizon_length: h, the largest number of actions in a chunk.
        frame_stack: see `ActionChunks`.
        worker_timeout: seconds without an answer after which a simulator counts as failed.

    Raises:
        UserError: the environment or an option is unknown.
    """
    from envs.registry import check_options, find_task

    task = find_task(task) if isinstance(task, str) else task
    check_options(task, options)
    make = partial(_make_chunks, task, horizon_length, frame_stack, **options)
    return Simulators(make, num_envs, task.env_name, worker_timeout, task.suite.preload)


def _make_chunks(task: Task, horizon_length: int, frame_stack: int = 1, **options) -> ActionChunks:
    from envs.registry import make_env

    env: Any = make_env(task, **options)
    chunks = ActionChunks(env, horizon_length, frame_stack)
    # The first reset takes longest, and reveals a faulty environment at once.
    chunks.begin(0)
    chunks.play(np.zeros((1, *env.action_space.shape)))
    return chunks


class Start(NamedTuple):
    """A point in an episode.

    Attributes:
        seed: for `reset`.
        chunks: actions `[n, d_a]` executed so far, in any number of pieces.
        observation: after these actions, if known.
    """

    seed: int
    chunks: Sequence[np.ndarray] = ()
    observation: Observation | None = None


class Simulators:
    """N environments in their own processes, numbered from 0.

    `begin` begins episodes; `ask` followed by `answers` (or `play`) executes chunks. Each addresses
    some of the simulators by number and leaves the others alone.

    When one dies, raises, or does not answer in time, a warning is logged, all are rebuilt where
    they were, and the request is repeated. If the same one fails again, its episode is abandoned:
    its answer is None, `take_failures` returns the error, and the others continue.

    `begin`, `answers`, `play` and `wait` raise

    - SimulatorError if a simulator cannot be created, even at the second try;
    - UserError if an environment raises one, or does not reproduce an observation.

    After these errors the simulators can only be ended.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        num_envs: int,
        name: str,
        timeout: float,
        preload: Sequence[str] = (),
    ):
        """Starts the processes.

        Args:
            make: makes an `ActionChunks`, in each process.
            num_envs: N.
            name: of the environment, for messages.
            timeout: seconds without an answer after which a simulator counts as failed.
            preload: modules that the environment needs, see `start_fork_server`.
        """
        self.num_envs = num_envs
        self._make, self._name, self._timeout, self._preload = make, name, timeout, preload
        self._episodes: dict[int, Start] = {}  # the open ones
        self._placed: set[int] = set()  # simulators that have replayed their open episode
        self._chunks: dict[int, np.ndarray] = {}  # to execute
        self._is_asked = False  # whether the chunks have been sent
        self._failures, self._error = np.zeros(num_envs, np.int64), None
        self._workers: list[Worker] = []
        _open.add(self)
        self._start()

    def _start(self) -> None:
        self._is_made, self._is_asked = False, False
        self._placed.clear()
        start_fork_server(self._preload)
        for i in range(self.num_envs):
            name = f'{self._name}: simulator {i + 1} of {self.num_envs}'
            self._workers.append(Worker(self._make, name, self._timeout))

    @property
    def playing(self) -> set[int]:
        """The simulators that have an open episode."""
        return set(self._episodes)

    def wait(self) -> None:
        """Waits until all simulators are ready."""
        self._persist(dict)

    def begin(self, starts: Mapping[int, Start]) -> dict[int, Observation | None]:
        """Begins an episode in some simulators; returns the observations."""
        self._episodes |= starts
        self._placed -= starts.keys()
        return self._persist(lambda: self._place(starts))

    def play(self, chunks: Mapping[int, np.ndarray]) -> dict[int, Answer]:
        """Executes chunks, `ask` and `answers` in one."""
        self.ask(chunks)
        return self.answers()

    def ask(self, chunks: Mapping[int, np.ndarray]) -> None:
        """Lets simulators with an open episode execute chunks `[n, d_a]`, 1 ≤ n ≤ h."""
        # As NumPy arrays: unpickling jax arrays would import jax in the processes.
        self._chunks = {i: np.asarray(chunk) for i, chunk in chunks.items()}
        self._send('play', {i: (chunk,) for i, chunk in self._chunks.items()})
        self._is_asked = True

    def answers(self) -> dict[int, Answer]:
        """Returns the results of the chunks, see `ActionChunks.play`."""
        answers = self._persist(self._played)
        self._is_asked = False
        for i, answer in answers.items():
            if answer is None:
                continue
            transitions, observation, _ = answer
            if transitions['done']:
                del self._episodes[i]
                continue
            start = self._episodes[i]
            chunk = transitions['actions'][: transitions['length']]
            self._episodes[i] = start._replace(
                chunks=[*start.chunks, chunk], observation=observation
            )
        return answers

    def take_failures(self) -> tuple[np.ndarray, SimulatorError | None]:
        """Returns the failures since the last call.

        Returns:
            How often each simulator failed `[N]`, and the error of the first abandoned episode.
        """
        failures, error = self._failures, self._error
        self._failures, self._error = np.zeros_like(failures), None
        return failures, error

    def end(self) -> None:
        """Kills the processes. May be called more than once."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _persist(self, attempt: Callable[[], dict[int, Any]]) -> dict[int, Any]:
        """Returns the result of `attempt`, which is repeated after each failure."""
        failed: set[tuple[int, str]] = set()
        given_up: dict[int, None] = {}
        while True:
            try:
                if not self._is_made:
                    self._receive('make', range(self.num_envs))
                    self._is_made = True
                return attempt() | given_up
            except _Failed as failure:
                (i, name), error = failure.args
            self._failures[i] += 1
            logging.warning('%s; all simulators are rebuilt where they were', error)
            if (i, name) in failed:
                if name == 'make':
                    raise error
                given_up[i] = None
                self._give_up(i, error)
            failed.add((i, name))
            self.end()
            self._start()

    def _give_up(self, i: int, error: SimulatorError) -> None:
        start = self._episodes.pop(i)
        self._chunks.pop(i, None)
        steps = sum(map(len, start.chunks))
        error.args = (f'{error}, twice after {steps} actions of the episode that '
                      f'reset(seed={start.seed}) begins, which ends there',)  # fmt: skip
        self._error = self._error or error

    def _place(self, starts: Iterable[int] = ()) -> dict[int, Any]:
        """Replays the open episodes in simulators that lack them; returns some observations."""
        waiting = {i: x for i, x in self._episodes.items() if i not in self._placed}
        self._send('begin', {i: (start.seed, start.chunks) for i, start in waiting.items()})
        for i, observation in self._receive('begin', waiting).items():
            start = waiting[i]
            if observation is None or not _is_same(observation, start.observation):
                raise UserError(
                    f'{self._name}: the environment is not deterministic: the same seed and '
                    'actions led to another observation, so an open episode cannot continue'
                )
            self._episodes[i] = start._replace(observation=observation)
            self._placed.add(i)
        return {i: self._episodes[i].observation for i in starts if i in self._episodes}

    def _played(self) -> dict[int, Any]:
        self._place()
        if not self._is_asked:
            self.ask(self._chunks)
        return self._receive('play', self._chunks)

    def _send(self, name: str, arguments: Mapping[int, tuple]) -> None:
        for i, each in arguments.items():
            self._workers[i].ask(name, *each)

    def _receive(self, name: str, simulators: Iterable[int]) -> dict[int, Any]:
        deadline, answers = time.monotonic() + self._timeout, {}
        for i in simulators:
            try:
                answers[i] = self._workers[i].answer(deadline)
            except SimulatorError as error:
                raise _Failed((i, name), error) from None
        return answers


class _Failed(Exception):
    """The number of the simulator that failed, the method called, and the error."""


def _is_same(observation: Any, known: Any) -> bool:
    if known is None:
        return True
    same = map_observation(np.array_equal, observation, known)
    return all(same.values()) if isinstance(same, dict) else same


@atexit.register
def _end_all() -> None:  # runs before multiprocessing waits for remaining processes
    for simulators in list(_open):
        simulators.end()
