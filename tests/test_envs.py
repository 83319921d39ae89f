"""Environments: names, reproducible resets, rewards, endings."""

import itertools

import gymnasium
import mujoco
import numpy as np
import ogbench.manipspace  # noqa: F401  (registers what OGBench itself has)
import pytest

from envs import find_task, make_env
from envs.ogbench.names import SCENES, SingleTask

DOUBLE = 'cube-double-play-singletask-task2-v0'
TASKS = {
    'cube-double-play-v0': DOUBLE,
    'scene-play-v0': 'scene-play-singletask-task2-v0',
    'puzzle-3x3-play-v0': 'puzzle-3x3-play-singletask-task4-v0',
}


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 5)).astype(np.float32)


def rollout(env, seed, count=30):
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


def reach_goal(env, cubes=None):
    """Puts everything where the task wants it, or nothing but so many cubes."""
    env, data = env.unwrapped, env.unwrapped.data
    goal = env.cur_task_info.get('goal', {})
    places = env.cur_task_info.get('goal_xyzs', goal.get('block_xyzs', ()))
    for i, xyz in enumerate(places[:cubes]):
        data.joint(f'object_joint_{i}').qpos[:3] = xyz
    if cubes is None:
        for slide in ('drawer', 'window') if 'drawer_pos' in goal else ():
            data.joint(f'{slide}_slide').qpos[0] = goal[f'{slide}_pos']
        if hasattr(env, '_target_button_states'):
            env._cur_button_states = env._target_button_states.copy()
            env._apply_button_states()
    mujoco.mj_forward(env.model, data)


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


@pytest.mark.parametrize('env_name', TASKS.values())
def test_equal_seeds_make_equal_episodes_whatever_came_before(env_name):
    env = make_env(env_name)
    first = rollout(env, seed=3)
    start = env.reset(seed=3)[0], simulator_state(env)
    reach_goal(env)
    rollout(env, seed=4)
    env.reset()
    env.action_space.sample()
    again = env.reset(seed=3)[0], simulator_state(env)
    for before, after in zip(start, again, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(first, rollout(env, seed=3))
    assert not np.array_equal(first, rollout(env, seed=4))


@pytest.mark.parametrize(
    ('env_name', 'sparse'), [(name, 'puzzle' in name) for name in TASKS.values()]
)
def test_states_rewards_and_endings_are_those_of_ogbench(env_name, sparse):
    ours = make_env(env_name, sparse=sparse)
    theirs = gymnasium.make(env_name.replace('-play', ''))
    # OGBench never seeds the actions that it takes while it resets.
    type(theirs.unwrapped).action_space = ours.unwrapped.action_space
    try:
        ours.reset(seed=7)
        ours.unwrapped.action_space.seed(7)
        their_start = theirs.reset(seed=7)[0]
    finally:
        del type(theirs.unwrapped).action_space
    start = ours.reset(seed=7)[0]
    np.testing.assert_array_equal(start, their_start.astype(np.float32))
    for step, action in enumerate(actions(30)):
        if step in (20, 28):
            for env in (ours, theirs):
                reach_goal(env, cubes=1 if step == 20 else None)
        observation, reward, *ends, info = ours.step(action)
        their_observation, their_reward, *their_ends, their_info = theirs.step(action)
        np.testing.assert_array_equal(observation, their_observation.astype(np.float32))
        assert reward == (-float(their_reward != 0) if sparse else their_reward)
        assert ends == their_ends
        assert info['success'] == their_info['success']
        if step < 28:
            assert reward < 0
    assert [reward, *ends, info['success']] == [0, True, False, True]


def test_pre_ends_the_episode_one_step_after_post():
    ends = {}
    for timing in ('pre', 'post'):
        env = make_env(DOUBLE, success_timing=timing)
        env.reset(seed=0)
        env.step(np.zeros(5, np.float32))
        reach_goal(env)
        ends[timing] = []
        for _ in range(2):
            _, reward, terminated, _, info = env.step(np.zeros(5, np.float32))
            assert info['success'] == terminated
            ends[timing].append(terminated)
        assert reward == 0
    assert ends == {'pre': [False, True], 'post': [True, True]}
