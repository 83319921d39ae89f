"""robosuite's environments for Robomimic's tasks, with the settings of a data file.

A Panda arm lifts a cube, puts a can into a bin, or puts a square nut over a peg. Actions [7] are
motions of the hand in 0.05 s (position, rotation) and of the gripper (−1 opens, +1 closes).
Sources: robosuite (arXiv 2009.12293), robomimic (arXiv 2108.03298).
"""

import contextlib
import copy
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.datasets import DatasetError
from envs.processes import import_mujoco
from envs.robomimic.names import ACTION_DIM, RobomimicTask

CAMERA, IMAGE_SIZE = 'agentview', 256
FIX = 'replace it with the public file'


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Hides robosuite's warnings about optional packages, and restores MUJOCO_GL."""
    logger = logging.getLogger('robosuite_logs')
    logger.addFilter(lambda record: record.levelno >= logging.ERROR)
    before = os.environ.get('MUJOCO_GL')
    try:
        yield
    finally:
        if before is None:
            os.environ.pop('MUJOCO_GL', None)


with _quiet_import():
    import_mujoco('robosuite')
    import robosuite
    from robosuite.controllers.composite.composite_controller_factory import (
        refactor_composite_controller_config,
    )


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
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (task.observation_dim,), np.float32
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (ACTION_DIM,), np.float32)
        self._keys = ['object-state' if key == 'object' else key for key in task.widths]
        try:
            self.simulation = robosuite.make(
                env_args['env_name'], **make_settings(env_args, render)
            )
        except Exception as error:
            raise DatasetError(
                f'{task.dataset}: robosuite {robosuite.__version__} cannot make the environment '
                f"that the file's env_args describe ({error!r}); {FIX}"
            ) from error
        self._drop_unused_observables()
        self._check_widths(task)

    def _check_widths(self, task: RobomimicTask) -> None:
        parts = self.simulation._get_observations(force_update=True)
        found = {key: np.size(parts.get(key, ())) for key in self._keys}
        found['action'] = self.simulation.action_dim
        expected = dict(zip(self._keys, task.widths.values(), strict=True)) | {'action': ACTION_DIM}
        if found != expected:
            raise DatasetError(
                f"{task.dataset}: the environment that the file's env_args describe has {found} "
                f'numbers, not {expected}; {FIX}'
            )

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
        return self._observe(self.simulation.reset()), {'success': self._is_solved()}

    def step(self, action: np.ndarray):
        observation, *_ = self.simulation.step(action)
        success = self._is_solved()
        return self._observe(observation), float(success) - 1, success, False, {'success': success}

    def _observe(self, parts: dict) -> np.ndarray:
        return np.concatenate([parts[key] for key in self._keys]).astype(np.float32)

    def _is_solved(self) -> bool:
        return bool(self.simulation._check_success())

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
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

    Controllers of robosuite before 1.5 are translated.

    Args:
        env_args: the environment's settings from a data file.
        render: whether to render images.
    """
    settings = copy.deepcopy(env_args['env_kwargs'])
    version = re.match(r'1\.(\d+)', str(env_args.get('env_version')))
    if version and int(version[1]) < 5:
        settings.setdefault('lite_physics', False)  # robosuite's behaviour then
    if isinstance(controller := settings.get('controller_configs'), dict):
        robots = settings['robots']
        robot = robots if isinstance(robots, str) else robots[0]
        settings['controller_configs'] = refactor_composite_controller_config(
            controller, robot, ['right']
        )
    if env_args['env_name'] != 'Lift':  # Lift draws the size of its cube for each scene
        settings['hard_reset'] = False  # the same states bit by bit, without building a new scene
    for name in list(settings):
        if name.startswith('camera_') or name == 'render_gpu_device_id':
            del settings[name]
    return settings | {
        'has_renderer': False,
        'has_offscreen_renderer': render,
        'ignore_done': True,
        'use_object_obs': True,
        'use_camera_obs': False,
        'reward_shaping': False,
        'renderer': 'mujoco',
    }
