"""Suites describe the observations and actions that their environments have."""

import numpy as np
import pytest

import envs
from envs.ogbench.names import CUBES, PUZZLES
from envs.robomimic.names import ACTION_DIM, SIMULATED

SCENES = [*(f'cube-{size}' for size in CUBES), 'scene', *(f'puzzle-{size}' for size in PUZZLES)]


def interface_of(env_name):
    task = envs.find_task(env_name)
    return task.suite.interface(task, **envs.check_options(task))


def size(parts):
    return sum(part.size for part in parts)


@pytest.mark.parametrize('scene', SCENES)
def test_the_parts_of_a_scene_add_up(scene):
    env_name = f'{scene}-play-singletask-task2-v0'
    interface, env = interface_of(env_name), envs.make_env(env_name)
    assert size(interface.observation) == env.observation_space.shape[0]
    assert size(interface.action) == env.action_space.shape[0]
    assert interface.control_rate == 1 / env.unwrapped.control_timestep()
    assert interface.action_range == (env.action_space.low.max(), env.action_space.high.min())


@pytest.mark.parametrize('task', SIMULATED)
def test_the_parts_of_robosuites_tasks_add_up(task, tmp_path):
    found = envs.find_task(f'{task}-mh-low_dim')
    interface = found.suite.interface(found, robomimic_dataset_dir=str(tmp_path))
    assert size(interface.observation) == found.details.observation_dim
    assert size(interface.action) == ACTION_DIM
    assert interface.control_rate == 20


def test_the_parts_of_a_scene_are_where_they_are_said_to_be_in_their_units():
    env_name = 'scene-play-singletask-task2-v0'
    env = envs.make_env(env_name)
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation, *_ = env.step(rng.uniform(-1, 1, 5).astype(np.float32))
    parts, start = {}, 0
    for part in interface_of(env_name).observation:
        parts[part.name] = observation[start : start + part.size]
        start += part.size
    data = env.unwrapped.data
    centre = np.array([0.425, 0, 0])
    known = {
        'cube 0 position, from (0.425, 0, 0) m':
            (data.joint('object_joint_0').qpos[:3] - centre) / 0.1,
        'cube 0 orientation, quaternion w, x, y, z': data.joint('object_joint_0').qpos[3:],
        'button 1 position': data.joint('buttonbox_joint_1').qpos * 120,
        'button 1 velocity': data.joint('buttonbox_joint_1').qvel,
        'drawer position': data.joint('drawer_slide').qpos * 18,
        'drawer velocity': data.joint('drawer_slide').qvel,
        'window position': data.joint('window_slide').qpos * 15,
    }  # fmt: skip
    for name, value in known.items():
        np.testing.assert_allclose(parts[name], value, atol=1e-5, err_msg=name)
    assert (np.abs(parts['joint positions']) > 0).any()
    np.testing.assert_allclose((parts['effector yaw, cosine and sine'] ** 2).sum(), 1, rtol=1e-5)
