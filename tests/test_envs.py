"""Environments: names, reproducible resets, rewards, endings."""

import itertools
import os
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import ogbench.manipspace  # noqa: F401  (registers what OGBench itself has)
import pytest

from envs import find_task, make_env
from envs.ogbench.names import SCENES, SingleTask

DOUBLE = 'cube-double-play-singletask-task2-v0'


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 5)).astype(np.float32)


def rollout(env, seed, count=100):
    """Observations of an episode [count + 1, d_s] with actions that depend on nothing."""
    observations = [env.reset(seed=seed)[0]]
    observations += [env.step(action)[0] for action in actions(count)]
    return np.array(observations)


def simulator_state(env):
    """All that decides what the simulator does next."""
    model, data = env.unwrapped.model, env.unwrapped.data
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state


def put_cubes_at_goal(env, cubes=None):
    for i, xyz in enumerate(env.unwrapped.cur_task_info['goal_xyzs'][:cubes]):
        env.unwrapped.data.joint(f'object_joint_{i}').qpos[:3] = xyz
    mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)


@pytest.fixture(scope='module')
def double():
    return make_env(DOUBLE)


def test_every_usual_name_is_known():
    for scene, data, task in itertools.product(SCENES, ('play', 'play-100m', 'noisy'), range(6)):
        suffix = f'-task{task}' if task else ''
        dataset = f'{scene}-{data}-v0'
        found = find_task(f'{scene}-{data}-singletask{suffix}-v0')
        assert found.dataset == dataset
        assert found.details == SingleTask(scene, task, dataset)
        assert found.details.env_id in gymnasium.registry


@pytest.mark.parametrize(
    'name',
    [
        'cube-quintuple-play-singletask-task1-v0',
        'cube-double-noisy-100m-singletask-task1-v0',
        'cube-double-play-v0',
        'antmaze-large-navigate-v0',
    ],
)
def test_unknown_name_is_an_error_that_lists_what_exists(name):
    with pytest.raises(
        ValueError, match=rf'--env_name={name}: unknown; there are \{{cube-\{{single,'
    ):
        make_env(name)


@pytest.mark.parametrize(
    ('name', 'size', 'limit'),
    [
        ('cube-single-play-singletask-v0', 28, 200),
        (DOUBLE, 37, 500),
        ('cube-octuple-play-100m-singletask-task1-v0', 91, 1500),
        ('scene-play-singletask-task2-v0', 40, 750),
        ('puzzle-3x3-play-singletask-task4-v0', 55, 500),
        ('puzzle-4x6-play-singletask-v0', 115, 1000),
    ],
)
def test_spaces_and_step_limit(name, size, limit):
    env = make_env(name)
    assert env.observation_space.shape == (size,)
    assert env.observation_space.dtype == np.float32
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (5,), np.float32)
    assert env.spec.max_episode_steps == limit
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert info == {'success': False}
    assert type(info['success']) is type(terminated) is bool
    assert not truncated
    assert reward <= 0


def test_equal_seeds_make_equal_episodes_whatever_came_before(double):
    first = rollout(double, seed=3)
    start = double.reset(seed=3)[0], simulator_state(double)
    rollout(double, seed=4, count=30)
    double.reset()
    double.action_space.sample()
    again = double.reset(seed=3)[0], simulator_state(double)
    for before, after in zip(start, again, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(first, rollout(double, seed=3))
    assert not np.array_equal(first, rollout(double, seed=4))


def test_states_rewards_and_endings_are_those_of_ogbench(double):
    theirs = gymnasium.make('cube-double-singletask-task2-v0')
    np.testing.assert_array_equal(
        double.reset(seed=7)[0], theirs.reset(seed=7)[0].astype(np.float32)
    )
    for step, action in enumerate(actions(60)):
        if step in (20, 58):
            for env in (double, theirs):
                put_cubes_at_goal(env, cubes=1 if step == 20 else 2)
        observation, *ours, info = double.step(action)
        their_observation, *others, their_info = theirs.step(action)
        np.testing.assert_array_equal(observation, their_observation.astype(np.float32))
        assert ours == others
        assert info['success'] == their_info['success']
    assert ours == [0, True, False]


def test_pre_ends_the_episode_one_step_after_post():
    ends = {}
    for timing in ('pre', 'post'):
        env = make_env(DOUBLE, success_timing=timing)
        env.reset(seed=0)
        env.step(np.zeros(5, np.float32))
        put_cubes_at_goal(env)
        ends[timing] = []
        for _ in range(2):
            _, reward, terminated, _, info = env.step(np.zeros(5, np.float32))
            assert info['success'] == terminated
            ends[timing].append(terminated)
        assert reward == 0
    assert ends == {'pre': [False, True], 'post': [True, True]}


def gl_backend():
    """A way to render without a display that works on this machine, or None."""
    for backend in ('egl', 'osmesa'):
        code = 'import mujoco.gl_context as g; g.GLContext(8, 8)'
        environment = {**os.environ, 'MUJOCO_GL': backend}
        run = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True)
        if run.returncode == 0:
            return backend
    return None
