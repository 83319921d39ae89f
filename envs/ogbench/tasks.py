"""OGBench's manipulation environments: with a fixed task, or for data collection.

A UR5e arm moves one to eight cubes (cube), a cube, two buttons, a drawer and a window (scene), or
presses buttons that also change their neighbours (puzzle). Actions [5] are relative motions of the
gripper (x, y, z, yaw, opening), where ±1 is the largest motion in one step of 0.05 s.
Source: OGBench (arXiv 2410.20092), package `ogbench`.
"""

import copy
import functools
import warnings

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.processes import import_mujoco

with warnings.catch_warnings():  # MuJoCo's viewer warns if there is no display
    warnings.simplefilter('ignore')
    import_mujoco('ogbench.manipspace.envs.cube_env')
    import ogbench.manipspace  # noqa: F401  (registers the environments)
    from ogbench.manipspace.envs.cube_env import CubeEnv
    from ogbench.manipspace.envs.manipspace_env import ManipSpaceEnv
    from ogbench.manipspace.envs.puzzle_env import PuzzleEnv
    from ogbench.manipspace.envs.scene_env import SceneEnv

from envs.ogbench.names import SingleTask

# Size of the arm's and of each object's part of an observation.
ARM, CUBE, BUTTON, SLIDE = 19, 9, 4, 2
EPISODE_ROWS = 1001  # of play data: 1000 transitions and a final state


class LeanEnv(ManipSpaceEnv):
    """Changes to OGBench's environments, with the same states, rewards and endings.

    `reset(seed=...)` determines everything. OGBench's reset takes random steps, with actions from a
    new, unseeded action space, so controls and the solver's warm start differ between resets.

    With a fixed task the reward is −(number of objects not at their goal); with `sparse`, any
    non-zero reward is −1. The info of a step has 'success'. Unused parts of it are not computed.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 20}  # noqa: RUF012
    _num_cubes: int = 0
    _num_buttons: int = 0
    _num_slides: int = 0  # drawers and windows

    def __init__(self, *args, render_mode=None, sparse=False, **kwargs):
        super().__init__(*args, render_mode=render_mode, **kwargs)
        self.render_mode, self._sparse = render_mode, sparse

    @functools.cached_property
    def action_space(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return gymnasium.spaces.Box(-1, 1, self.action_low.shape, np.float32)

    @functools.cached_property
    def observation_space(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        # OGBench's builds and resets the whole scene to look at an observation.
        objects = CUBE * self._num_cubes + BUTTON * self._num_buttons + SLIDE * self._num_slides
        return gymnasium.spaces.Box(-np.inf, np.inf, (ARM + objects,), np.float64)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.action_space.seed(seed)
        return super().reset(seed=seed, options=options)

    def pre_step(self):
        assert self._data is not None
        self._prev_qpos = self._data.qpos.copy()
        self._prev_qvel = self._data.qvel.copy()

    def compute_reward(self):
        reward = super().compute_reward()
        return -float(reward != 0) if self._sparse else reward

    def get_step_info(self):
        return {} if self._mode == 'task' else super().get_step_info()


class LeanCubeEnv(LeanEnv, CubeEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Does not compute the colours of the cubes without a renderer."""

    def post_step(self):
        if self.render_mode is not None:
            super().post_step()
            return
        successes = self._compute_successes()
        collecting = self._mode == 'data_collection'
        self._success = successes[self._target_block] if collecting else all(successes)


class LeanButtonEnv(LeanEnv):
    """Keeps the state from which OGBench detects that a button is pressed."""

    _cur_button_states: np.ndarray

    def pre_step(self):
        super().pre_step()
        assert self._data is not None
        self._prev_button_states = self._cur_button_states.copy()
        self._prev_ob_info = {
            f'privileged/button_{i}_pos': self._data.joint(f'buttonbox_joint_{i}').qpos.copy()
            for i in range(self._num_buttons)
        }


class LeanSceneEnv(LeanButtonEnv, SceneEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    _num_slides = 2


class LeanPuzzleEnv(LeanButtonEnv, PuzzleEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    pass


CLASSES = {'cube': LeanCubeEnv, 'scene': LeanSceneEnv, 'puzzle': LeanPuzzleEnv}


def make_env(
    task: SingleTask, sparse: bool = False, success_timing: str = 'pre', render: bool = False
) -> gymnasium.Env:
    """Makes the environment of a task, with observations [d_s] float64.

    Args:
        task: from `parse_task`.
        sparse: turns any non-zero reward into −1.
        success_timing: 'pre' takes reward, success and termination from the state before the
            action, as in OGBench since 1.2.0, so an episode ends one step after the goal is
            reached; 'post' takes them from the state after it.
        render: whether `env.render()` returns images [H, W, 3] uint8 that show which cubes are at
            their goal.
    """
    mode = 'rgb_array' if render else None
    options = {'render_mode': mode, 'sparse': sparse, 'success_timing': success_timing}
    return gymnasium.make(_spec(task.env_id), disable_env_checker=True, **options)


def make_collection_env(scene: str) -> gymnasium.Env:
    """Makes the environment for data collection: random scenes, without a goal.

    Its info has what the oracle needs, and the simulator's state before the step: 'prev_qpos',
    'prev_qvel' and (not for cubes) 'prev_button_states'. Episodes end after `EPISODE_ROWS` steps.

    Args:
        scene: such as 'cube-double'.
    """
    spec, options = _spec(f'{scene}-v0'), {'mode': 'data_collection', 'terminate_at_goal': False}
    return gymnasium.make(spec, EPISODE_ROWS, disable_env_checker=True, **options)


def _spec(env_id: str) -> EnvSpec:
    """Returns the registered settings and time limit of `env_id`, with our class."""
    env_class = CLASSES[env_id.partition('-')[0]]
    spec = copy.deepcopy(gymnasium.spec(env_id))
    spec.entry_point = f'{env_class.__module__}:{env_class.__name__}'
    return spec
