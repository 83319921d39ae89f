"""An environment that renders, in a process of its own, for videos.

MuJoCo reads MUJOCO_GL when it is imported, and renders without a display by EGL (a GPU's driver, or
Mesa) or by OSMesa (in software). So that process is started anew with the one that works here.
Simulators that train and evaluate have nothing to do with it, and never render.
"""

import atexit
import multiprocessing
import os
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.episodes import ActionChunks, Observation
from envs.processes import environment_variables
from envs.simulators import WORKER_TIMEOUT
from envs.suite import Task
from envs.workers import SimulatorError, Worker
from utils.errors import UserError

BACKENDS = ('egl', 'osmesa')  # of MUJOCO_GL, tried in this order
FIX = (
    "install Mesa's renderer, for example `apt install libosmesa6` or `apt install libegl1`, and "
    'set MUJOCO_GL if another one shall be used'
)

_spawn = multiprocessing.get_context('spawn')


class Played(NamedTuple):
    """What a chunk came to: the observation after it, and the frames [H, W, 3] uint8."""

    observation: Observation
    frames: list[np.ndarray]
    done: bool
    success: bool
    reward: float


class Frames(gymnasium.Wrapper):
    """Keeps a picture of an episode's start, of every few steps and of its end."""

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
        image: Any = self.env.render()
        shape, kind = getattr(image, 'shape', ()), getattr(image, 'dtype', type(image).__name__)
        if len(shape) != 3 or shape[2] != 3 or kind != np.uint8:
            raise UserError(
                f'{self.env}: render() gives {kind} {shape}, not an image [H, W, 3] uint8; let '
                "the suite's make_env(render=True) make an environment that does"
            )
        return np.array(image)


class Recording:
    """What the process calls: `begin` an episode, and `play` chunks of it."""

    def __init__(self, env: Frames, horizon_length: int, frame_stack: int = 1):
        self._frames, self._chunks = env, ActionChunks(env, horizon_length, frame_stack)

    def begin(self, seed: int) -> Played:
        """Begins the episode of a seed."""
        observation = self._chunks.begin(seed)
        assert observation is not None
        return self._played(observation, False, False, 0.0)

    def play(self, chunk: np.ndarray) -> Played:
        """Executes a chunk `[h, d_a]`, to its end or to the end of the episode."""
        transitions, observation, success = self._chunks.play(chunk)
        reward = float(transitions['rewards'].sum())
        return self._played(observation, transitions['done'], bool(success), reward)

    def _played(self, observation: Observation, done: bool, success: bool, reward: float) -> Played:
        frames, self._frames.frames = self._frames.frames, []
        return Played(observation, frames, done, success, reward)


def _make(
    task: Task, horizon_length: int, frame_skip: int, frame_stack: int, **options
) -> Recording:
    from envs.registry import make_env

    env = Frames(make_env(task, render=True, **options), frame_skip)
    return Recording(env, horizon_length, frame_stack)


class Renderer:
    """A `Recording` in a process of its own; close it when all is recorded."""

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
        """Starts the process with the first way to render that works here.

        Args:
            task: to play.
            horizon_length: h, the number of actions in a chunk.
            frame_skip: environment steps between two frames.
            frame_stack: see `ActionChunks`.
            worker_timeout: seconds without an answer after which it is given up.
            options: of the task's suite.

        Raises:
            UserError: nothing here renders this task, or it is wrong in itself.
        """
        make = partial(_make, task, horizon_length, frame_skip, frame_stack, **options)
        chosen = os.environ.get('MUJOCO_GL')
        problems = []
        for backend in (chosen,) if chosen else BACKENDS:
            with environment_variables(MUJOCO_GL=backend):
                self._worker = Worker(make, 'its process', worker_timeout, _spawn)
            atexit.register(self.close)
            try:
                self._worker.answer()
                self.begin(0)
            except SimulatorError as error:
                problems.append(f'{backend}: {error}')
                self.close()
            except BaseException:
                self.close()
                raise
            else:
                return
        raise UserError(f'{task.env_name} cannot be rendered here ({"; ".join(problems)}); {FIX}')

    def begin(self, seed: int) -> Played:
        """Begins the episode that `reset(seed=seed)` begins.

        Raises:
            UserError: the environment cannot be rendered.
            SimulatorError: the process failed.
        """
        return self._call('begin', seed)

    def play(self, chunk: np.ndarray) -> Played:
        """Executes a chunk `[h, d_a]`; raises as `begin` does."""
        return self._call('play', np.asarray(chunk))  # not jax's, which the process would import

    def _call(self, name: str, argument: Any) -> Played:
        self._worker.ask(name, argument)
        return self._worker.answer()

    def close(self) -> None:
        """Ends the process, whatever it does."""
        atexit.unregister(self.close)
        self._worker.end()
