"""robosuite's environments for Robomimic's tasks, with the settings of a data file.

A Panda arm lifts a cube, puts a can into a bin, or puts a square nut over a peg. Actions [7] are
motions of the hand in 0.05 s (position, rotation) and of the gripper (−1 opens, +1 closes).
Sources: robosuite (arXiv 2009.12293), robomimic (arXiv 2108.03298).
"""

import copy
import logging
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.npz import DatasetError
from envs.processes import environment_variables, import_mujoco
from envs.robomimic.names import ACTION_DIM, RobomimicTask

CAMERA, IMAGE_SIZE = 'agentview', 256
FIX = 'replace it with the public file'


# Hides warnings about optional packages. Importing robosuite sets MUJOCO_GL.
logging.getLogger('robosuite_logs').addFilter(lambda record: record.levelno >= logging.ERROR)
with environment_variables(MUJOCO_GL=os.environ.get('MUJOCO_GL')):
    import_mujoco('robosuite')
    import robosuite


class RobosuiteEnv(gymnasium.Env):
    """A task of robosuite as a Gymnasium environment.

    Observations [d_s] float32 are the components of `task.widths`, in that order. The reward is 0
    where the task is solved and −1 elsewhere; success ends the episode. `reset(seed=…)` determines
    everything except the actions, whatever happened before.

    Args:
        task: from `parse`.
        env_args: the environment's settings from a data file.
        render: whether `render` returns images [H, W, 3] uint8.

    Raises:
        DatasetError: robosuite has no such environment, or its observations or actions differ.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 20}  # noqa: RUF012

    def __init__(self, task: RobomimicTask, env_args: dict[str, Any], render: bool = False):
        self.render_mode = 'rgb_array' if render else None
        size = (task.observation_dim,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, size, np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (ACTION_DIM,), np.float32)
        self._keys = ['object-state' if key == 'object' else key for key in task.widths]
        try:
            settings = make_settings(env_args, render)
            self.simulation = robosuite.make(env_args['env_name'], **settings)
        except Exception as error:
            what = f'robosuite {robosuite.__version__} cannot make the environment of the file'
            raise DatasetError(f'{task.dataset}: {what} ({error!r}); {FIX}') from error
        self._drop_unused_observables()
        self._check_widths(task)

    def _check_widths(self, task: RobomimicTask) -> None:
        parts = self.simulation._get_observations(force_update=True)
        found = {key: np.size(parts.get(key, ())) for key in self._keys}
        found['action'] = self.simulation.action_dim
        expected = dict(zip(self._keys, task.widths.values(), strict=True)) | {'action': ACTION_DIM}
        if found != expected:
            what = f"the environment of the file's env_args has {found} numbers, not {expected}"
            raise DatasetError(f'{task.dataset}: {what}; {FIX}')

    def _drop_unused_observables(self) -> None:
        """Stops robosuite from computing unused observables in every step."""
        for name, observable in self.simulation._observables.items():
            if observable.modality != 'object' and name not in self._keys:
                observable.set_enabled(False)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is not None:  # in place: the placement samplers share the generator
            bits = np.random.default_rng(seed).bit_generator
            self.simulation.rng.bit_generator.state = bits.state
        return self._observe(self.simulation.reset()), {}

    def step(self, action: np.ndarray):
        observation, *_ = self.simulation.step(action)
        success = bool(self.simulation._check_success())
        return self._observe(observation), float(success) - 1, success, False, {'success': success}

    def _observe(self, parts: dict) -> np.ndarray:
        return np.concatenate([parts[key] for key in self._keys]).astype(np.float32)

    def render(self) -> np.ndarray:
        size = {'width': IMAGE_SIZE, 'height': IMAGE_SIZE}
        return self.simulation.sim.render(camera_name=CAMERA, **size)[::-1]

    def close(self) -> None:
        self.simulation.close()

    def state(self) -> np.ndarray:
        """Returns the simulator's time, positions and velocities, in robomimic's format."""
        return self.simulation.sim.get_state().flatten()

    def model(self) -> str:
        """Returns the scene as XML. Paths of robosuite's own files begin with 'robosuite/'."""
        folder = str(Path(robosuite.__file__).parent)
        return self.simulation.sim.model.get_xml().replace(folder, 'robosuite')


def make_env(task: RobomimicTask, env_args: dict[str, Any], render: bool = False) -> gymnasium.Env:
    """Makes the environment of a task with its time limit; arguments as in `RobosuiteEnv`."""
    return gymnasium.wrappers.TimeLimit(RobosuiteEnv(task, env_args, render), task.limit)


def make_settings(env_args: dict[str, Any], render: bool = False) -> dict[str, Any]:
    """Returns the arguments of `robosuite.make` for an environment without cameras.

    Args:
        env_args: the environment's settings from a data file.
        render: whether to render images.
    """
    unused = ('camera_', 'render_gpu_device_id')
    given = {k: x for k, x in env_args['env_kwargs'].items() if not k.startswith(unused)}
    settings = {'has_renderer': False, 'has_offscreen_renderer': render, 'renderer': 'mujoco'}
    settings |= {'ignore_done': True, 'use_object_obs': True, 'use_camera_obs': False}
    if env_args['env_name'] != 'Lift':  # Lift draws the size of its cube for each scene
        settings['hard_reset'] = False  # the same states bit by bit, without building a new scene
    return copy.deepcopy(given) | settings | {'reward_shaping': False}
