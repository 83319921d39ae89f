"""An environment that renders videos, in its own process.

MuJoCo reads MUJOCO_GL on import, and renders without a display with EGL (a GPU's driver, or Mesa)
or OSMesa (in software). So the process is started with each of them until one works. The simulators
that train and evaluate never render.
"""

import multiprocessing
import os
from functools import partial
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.episodes import ActionChunks, Observation
from envs.processes import environment_variables
from envs.registry import make_env
from envs.simulators import WORKER_TIMEOUT
from envs.suite import Task
from envs.workers import SimulatorError, Worker
from utils.errors import UserError

BACKENDS = ('egl', 'osmesa')  # values of MUJOCO_GL, tried in this order
FIX = 'install a renderer (apt install libosmesa6 or libegl1), or name another one in MUJOCO_GL'

_spawn = multiprocessing.get_context('spawn')


class Played(NamedTuple):
    """Result of a chunk: the observation after it, and the frames [H, W, 3] uint8."""

    observation: Observation
    frames: list[np.ndarray]
    done: bool
    success: bool


class Frames(gymnasium.Wrapper):
    """Keeps a frame of an episode's start, of every few steps and of its end."""

    def __init__(self, env: gymnasium.Env, frame_skip: int):
        super().__init__(env)
        self._frame_skip, self._steps = frame_skip, 0
        self.frames: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        result = self.env.reset(seed=seed, options=options)
        self._steps, self.frames = 0, [self._picture()]
        return result

    def step(self, action: np.ndarray):
        result = self.env.step(action)
        self._steps += 1
        if result[2] or result[3] or self._steps % self._frame_skip == 0:
            self.frames.append(self._picture())
        return result

    def _picture(self) -> np.ndarray:
        image = np.array(self.env.render())
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            what = f'render() returns {image.dtype} {image.shape}, not an image [H, W, 3] uint8'
            raise UserError(f"{self.env}: {what}; correct the suite's make_env(render=True)")
        return image


class Recording:
    """The object in the rendering process: `begin` an episode, and `play` chunks of it."""

    def __init__(
        self, env: gymnasium.Env, horizon_length: int, frame_skip: int, frame_stack: int = 1
    ):
        self._frames = Frames(env, frame_skip)
        self._chunks = ActionChunks(self._frames, horizon_length, frame_stack)

    def begin(self, seed: int) -> Played:
        """Begins the episode of a seed."""
        observation = self._chunks.begin(seed)
        assert observation is not None
        return self._played(observation, False, False)

    def play(self, chunk: np.ndarray) -> Played:
        """Executes a chunk `[h, d_a]`, until its end or the end of the episode."""
        transitions, observation, success = self._chunks.play(chunk)
        return self._played(observation, transitions['done'], bool(success))

    def _played(self, observation: Observation, done: bool, success: bool) -> Played:
        frames, self._frames.frames = self._frames.frames, []
        return Played(observation, frames, done, success)


def _make(task: Task, *sizes: int, **options) -> Recording:
    return Recording(make_env(task, render=True, **options), *sizes)


class Renderer:
    """A `Recording` in another process; close it when done."""

    def __init__(
        self,
        task: Task,
        horizon_length: int,
        frame_skip: int,
        *,
        frame_stack: int = 1,
        worker_timeout: float = WORKER_TIMEOUT,
        **options,
    ):
        """Starts the process with the first backend that works.

        Args:
            task: to play.
            horizon_length: h, the number of actions in a chunk.
            frame_skip: environment steps per frame.
            frame_stack: see `ActionChunks`.
            worker_timeout: seconds without an answer after which the process counts as failed.
            options: of the task's suite.

        Raises:
            UserError: no backend renders this task, or the task is invalid.
        """
        make = partial(_make, task, horizon_length, frame_skip, frame_stack, **options)
        chosen = os.environ.get('MUJOCO_GL')
        problems = []
        for backend in (chosen,) if chosen else BACKENDS:
            with environment_variables(MUJOCO_GL=backend):
                self._worker = Worker(make, 'its process', worker_timeout, _spawn)
            try:
                self._worker.answer()
                self.begin(0)
                return
            except SimulatorError as error:
                problems.append(f'{backend}: {error}')
                self.close()
        raise UserError(f'{task.env_name} cannot be rendered here ({"; ".join(problems)}); {FIX}')

    def begin(self, seed: int) -> Played:
        """Begins an episode with `reset(seed=seed)`.

        Raises:
            UserError: the environment cannot be rendered.
            SimulatorError: the process failed.
        """
        self._worker.ask('begin', seed)
        return self._worker.answer()

    def play(self, chunk: np.ndarray) -> Played:
        """Executes a chunk `[h, d_a]`; raises the errors of `begin`."""
        self._worker.ask('play', np.asarray(chunk))  # a jax array would make it import jax
        return self._worker.answer()

    def close(self) -> None:
        """Kills the process."""
        self._worker.end()
