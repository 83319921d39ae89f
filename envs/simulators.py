"""Simulators: environments, each in its own process, which imports neither jax nor matplotlib.

Environments are deterministic, so an episode is its seed and the actions executed in it. When a
simulator dies, hangs or raises, all simulators of its set are rebuilt where they were by replaying
those. A resumed run starts in the same way. If an environment is not deterministic, its open
episodes are truncated instead.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from envs.episodes import ActionChunks, Observation, is_same
from envs.registry import check_options, find_task, make_env
from envs.suite import Task
from envs.workers import SimulatorError, Worker, start_fork_server

WORKER_TIMEOUT = 120.0  # seconds
ENDLESS = 2_000  # steps of an episode that may never end
# Of `ActionChunks.play`; None: the episode ended where it was.
Answer = tuple[dict[str, Any], Observation, bool | None] | None


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
    task = find_task(task) if isinstance(task, str) else task
    check_options(task, options)
    make = partial(_make_chunks, task, horizon_length, frame_stack, **options)
    return Simulators(make, num_envs, task.env_name, worker_timeout, task.suite.preload)


def _make_chunks(task: Task, horizon_length: int, frame_stack: int = 1, **options) -> ActionChunks:
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
    its answer is None, `take_failures` returns the error, and the others continue. Without an error
    the answer is None if the environment did not reproduce the open episode.

    `begin`, `answers`, `play` and `wait` raise

    - SimulatorError if a simulator cannot be created, even at the second try;
    - UserError if an environment raises one.

    After these errors the simulators can only be ended.

    Attributes:
        repeats: whether open episodes can be replayed, see `check_repeats`.
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
        self.num_envs, self.repeats = num_envs, True
        self._make, self._name, self._timeout, self._preload = make, name, timeout, preload
        self._episodes: dict[int, Start] = {}  # the open ones
        self._placed: set[int] = set()  # simulators that have replayed their open episode
        self._chunks: dict[int, np.ndarray] = {}  # to execute
        self._is_asked = False  # whether the chunks have been sent
        self._failures, self._error = np.zeros(num_envs, np.int64), None
        self._given_up: dict[int, None] = {}  # by the call at work
        self._has_warned = False
        self._workers: list[Worker] = []
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

    def check_repeats(self) -> bool:
        """Plays the beginning of an episode twice in one simulator, which may have none open.

        Returns:
            `repeats`: whether it was the same. If not, open episodes are not played again.
        """

        self.repeats = self._persist(lambda: self._request('repeats', {0: ()}))[0]
        return self.repeats

    def begin(self, starts: Mapping[int, Start]) -> dict[int, Observation | None]:
        """Begins an episode in some simulators; returns the observations."""
        self._episodes |= {i: x._replace(chunks=list(x.chunks)) for i, x in starts.items()}
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
            chunks: Any = self._episodes[i].chunks  # a list of its own, see `begin`
            chunks.append(transitions['actions'][: transitions['length']])
            self._episodes[i] = self._episodes[i]._replace(observation=observation)
            if len(chunks) % 50 == 0:
                self._warn_of_endless(sum(map(len, chunks)))
        return answers

    def _warn_of_endless(self, steps: int) -> None:
        if steps >= ENDLESS and not self._has_warned:
            self._has_warned = True
            what = f'an episode is longer than {steps:,} steps, and may never end'
            fix = 'gymnasium.wrappers.TimeLimit(env, max_episode_steps=1000)'
            logging.warning('%s: %s. Give it a time limit, such as %s.', self._name, what, fix)

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
        self._given_up = {}
        while True:
            try:
                if not self._is_made:
                    self._receive('make', range(self.num_envs))
                    self._is_made = True
                return attempt() | self._given_up
            except _Failed as failure:
                (i, name), error = failure.args
            self._failures[i] += 1
            logging.warning('%s; all simulators are rebuilt where they were', error)
            if (i, name) in failed:
                if name in ('make', 'repeats'):
                    raise error
                self._give_up(i, error)
            failed.add((i, name))
            self.end()
            self._start()

    def _give_up(self, i: int, error: SimulatorError | None = None) -> None:
        """Ends an episode where it was, after an error or because it cannot be played again."""
        self._given_up[i] = None
        self._chunks.pop(i, None)
        start = self._episodes.pop(i)
        steps = sum(map(len, start.chunks))
        if error is None:
            what = 'the environment is not deterministic, so an open episode cannot continue'
            logging.warning('%s: %s; it is truncated after %d steps.', self._name, what, steps)
            return
        error.args = (f'{error}, twice after {steps} actions of the episode that '
                      f'reset(seed={start.seed}) begins, which ends there',)  # fmt: skip
        self._error = self._error or error

    def _place(self, starts: Iterable[int] = ()) -> dict[int, Any]:
        """Replays the open episodes in simulators that lack them; returns some observations."""
        waiting = {i: x for i, x in self._episodes.items() if i not in self._placed}
        for i in [i for i, x in waiting.items() if x.chunks and not self.repeats]:
            self._give_up(i)
            del waiting[i]
        arguments = {i: (start.seed, start.chunks) for i, start in waiting.items()}
        for i, observation in self._request('begin', arguments).items():
            known = waiting[i].observation
            if observation is None or not (known is None or is_same(observation, known)):
                self._give_up(i)
                continue
            self._episodes[i] = waiting[i]._replace(observation=observation)
            self._placed.add(i)
        return {i: self._episodes[i].observation for i in starts if i in self._episodes}

    def _played(self) -> dict[int, Any]:
        self._place()
        if not self._is_asked:
            self.ask(self._chunks)
        return self._receive('play', self._chunks)

    def _request(self, name: str, arguments: Mapping[int, tuple]) -> dict[int, Any]:
        self._send(name, arguments)
        return self._receive(name, arguments)

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
