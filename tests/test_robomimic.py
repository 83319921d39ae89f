"""Robomimic's tasks in robosuite: reproducible, ended by success; scripts that solve them."""

import json
import os
import subprocess
import sys

import gymnasium
import h5py
import mujoco
import numpy as np
import pytest

import envs
from envs import find_task, make_env
from envs.collection import collect
from envs.episodes import ActionChunks
from envs.robomimic import files, scripted, tasks
from envs.robomimic.names import LIMITS, parse

LIFT = 'lift-mh-low_dim'


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 7)).astype(np.float32)


def rollout(env, seed, count=15):
    """Observations and rewards of an episode with actions that depend on nothing."""
    rows = [np.append(env.reset(seed=seed)[0], 0)]
    rows += [np.append(*env.step(action)[:2]) for action in actions(count)]
    return np.array(rows)


@pytest.fixture(scope='module')
def lift(tmp_path_factory):
    return make_env(LIFT, robomimic_dataset_dir=str(tmp_path_factory.mktemp('nothing')))


def simulation(env):
    return env.unwrapped.simulation


def lift_the_cube(env):
    sim = simulation(env).sim
    sim.data.get_joint_qpos('cube_joint0')[2] = 0.9
    mujoco.mj_forward(sim.model._model, sim.data._data)


def test_spaces_and_step_limits(lift):
    assert lift.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (19,), np.float32)
    assert lift.action_space == gymnasium.spaces.Box(-1, 1, (7,), np.float32)
    limits = {task: find_task(f'{task}-ph-low_dim').details.limit for task in LIMITS}
    assert limits == {'lift': 300, 'can': 300, 'square': 400}
    observation, _ = lift.reset(seed=0)
    assert observation in lift.observation_space
    # The hand is above the table, points down, and the last three numbers lead to the cube.
    assert 0.9 < observation[2] < 1.1
    assert abs(observation[3]) > 0.99
    np.testing.assert_allclose(observation[9:12] - observation[:3], observation[16:19], atol=1e-6)
    observation, reward, terminated, truncated, info = lift.step(np.zeros(7, np.float32))
    assert observation in lift.observation_space
    assert (reward, terminated, truncated, info) == (-1, False, False, {'success': False})


def test_the_limit_or_success_ends_an_episode(lift):
    lift.reset(seed=0)
    lift.env._elapsed_steps = 298
    ends = [lift.step(np.zeros(7, np.float32))[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]
    lift.reset(seed=0)
    lift_the_cube(lift)
    _, reward, terminated, truncated, info = lift.step(np.zeros(7, np.float32))
    assert (reward, terminated, truncated, info) == (0, True, False, {'success': True})


def test_equal_seeds_make_equal_episodes_whatever_came_before(lift):
    first = rollout(lift, seed=3)
    rollout(lift, seed=4, count=5)
    lift.reset()
    np.testing.assert_array_equal(first, rollout(lift, seed=3))
    assert not np.array_equal(first[0], lift.reset(seed=4)[0])
    assert not np.array_equal(lift.reset()[0], lift.reset()[0])


@pytest.mark.slow
def test_equal_seeds_make_equal_episodes_in_another_process_that_says_nothing(lift):
    code = (
        'import sys; sys.path[:0] = [".", "tests"]; import test_robomimic as t; '
        f'e = t.make_env({LIFT!r}, robomimic_dataset_dir="/nowhere"); '
        'sys.stdout.buffer.write(t.rollout(e, seed=5).tobytes()); '
        'import os; assert "MUJOCO_GL" not in os.environ'
    )
    environment = {key: value for key, value in os.environ.items() if key != 'MUJOCO_GL'}
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, env=environment)
    assert run.stderr == b''
    assert run.stdout == rollout(lift, seed=5).tobytes()


@pytest.mark.parametrize('task', LIMITS)
def test_a_simulator_is_rebuilt_from_seed_and_actions(task):
    name = f'{task}-ph-low_dim'
    first, second = (
        ActionChunks(make_env(name, robomimic_dataset_dir='/nowhere'), 5) for _ in range(2)
    )
    first.begin(7)
    chunks = actions(15, seed=1).reshape(3, 5, 7)
    for chunk in chunks[:2]:
        transitions, *_ = first.play(chunk)
    second.begin(1)
    np.testing.assert_array_equal(second.begin(7, chunks[:2]), transitions['next_observation'])
    (last, *_), (same, *_) = first.play(chunks[2]), second.play(chunks[2])
    np.testing.assert_array_equal(last['observations'], same['observations'])
    np.testing.assert_array_equal(last['next_observation'], same['next_observation'])
    alone = make_env(name, robomimic_dataset_dir='/nowhere')
    alone.reset(seed=7)
    for action in chunks.reshape(15, 7):
        observation, *_ = alone.step(action)
    np.testing.assert_array_equal(last['next_observation'], observation)


def test_a_scene_is_kept_where_that_changes_nothing():
    task = parse('can-mh-low_dim')
    env_args = files.default_env_args(task)
    quick, slow = (tasks.RobosuiteEnv(task, env_args) for _ in range(2))
    assert not simulation(quick).hard_reset
    simulation(slow).hard_reset = True
    simulation(quick).reset()
    np.testing.assert_array_equal(rollout(quick, 3, count=5), rollout(slow, 3, count=5))


every_task = pytest.mark.parametrize(
    'task', ['lift', 'can', pytest.param('square', marks=pytest.mark.slow)]
)


@pytest.fixture(scope='module')
def demonstrator():
    made = {}

    def get(task):
        return made.setdefault(task, scripted.Demonstrator(parse(f'{task}-scripted-low_dim')))

    return get


@every_task
def test_scripts_solve_their_tasks_by_what_they_observe_alone(task, demonstrator):
    """Given the observations of a demonstration, a script without simulator acts the same."""
    seed = (3, 1)
    episode = demonstrator(task).play(seed)
    rewards = episode['rewards']
    assert rewards.argmax() + scripted.HOLD + 2 == len(rewards) <= LIMITS[task] + 1
    assert rewards.sum() > scripted.HOLD - 2
    assert np.abs(episode['actions'][:-1]).max() <= 1
    rng = np.random.default_rng(np.random.SeedSequence(seed).generate_state(2)[1])
    arm = scripted.Arm(parse(f'{task}-scripted-low_dim'), rng, episode['observations'][0])
    again = []
    plan = scripted.PLANS[task](arm)
    for action, seen in zip(plan, episode['observations'][1:], strict=False):
        again.append(action)
        arm.see(seen)
    np.testing.assert_array_equal(again[: len(seen)], episode['actions'][: len(seen)])
    assert len(again) >= len(episode['actions']) - 1


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    """Three episodes that two processes collected, and one for validation."""
    name, directory = 'lift-scripted-low_dim', tmp_path_factory.mktemp('lift')
    suite = envs.registry.find_collection(name)
    collect(suite, name, 3, directory, num_workers=2, seed=5, num_val_episodes=1)
    ends = ('.hdf5', '-val.hdf5', '.json')
    assert {file.name for file in directory.iterdir()} == {f'{name}{end}' for end in ends}
    return directory / f'{name}.hdf5'


def read(path):
    """All arrays of a file by name."""
    arrays = {}
    with h5py.File(path, 'r') as file:
        file['data'].visititems(
            lambda name, item: arrays.update({name: item[()]}) if hasattr(item, 'dtype') else None
        )
    return arrays


@pytest.mark.slow
def test_a_collection_depends_on_the_seed_alone(collection, demonstrator):
    """Not on the number of workers, nor on what was played before."""
    arrays = read(collection)
    for number in (2, 0):
        episode = demonstrator('lift').play((5, 0, number))
        for key in ('actions', 'states'):
            np.testing.assert_array_equal(arrays[f'demo_{number}/{key}'], episode[key][:-1])
    assert not np.array_equal(arrays['demo_0/states'][0], arrays['demo_1/states'][0])


@pytest.mark.slow
def test_a_collection_has_robomimics_format(collection):
    from robomimic.scripts import get_dataset_info

    run = subprocess.run(
        [sys.executable, get_dataset_info.__file__, '--dataset', collection],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'total trajectories: 3' in run.stdout
    assert 'observation key object with shape' in run.stdout
    with h5py.File(collection, 'r') as file:
        assert json.loads(file['data'].attrs['env_args'])['env_name'] == 'Lift'
        demo = file['data/demo_1']
        rewards, dones = demo['rewards'][()], demo['dones'][()]
        assert demo.attrs['num_samples'] == len(rewards)
        assert file['data'].attrs['total'] == sum(
            group.attrs['num_samples'] for group in file['data'].values()
        )
        assert rewards.any()
        np.testing.assert_array_equal(
            dones, np.maximum(rewards, np.arange(len(rewards)) + 1 == len(rewards))
        )
        assert demo.attrs['model_file'].startswith('<mujoco')
        np.testing.assert_array_equal(demo['obs/object'][1:], demo['next_obs/object'][:-1])


@pytest.mark.slow
def test_a_collection_is_data_of_its_environment(collection):
    """What it says happened happens in the environment, too."""
    options = {'robomimic_dataset_dir': str(collection.parent)}
    dataset = envs.make_dataset(
        'lift-scripted-low_dim', source='collect', num_episodes=3, seed=5, **options
    )
    assert dataset.provenance['source'] == 'collected'
    data = dataset.load(0)
    env = make_env('lift-scripted-low_dim', **options)
    env.reset(seed=int(np.random.SeedSequence((5, 0, 0)).generate_state(2)[0]))
    for row in range(data['terminals'].argmax()):
        observation, reward, terminated, *_ = env.step(data['actions'][row])
        assert (reward, not terminated) == (data['rewards'][row], data['masks'][row])
        np.testing.assert_allclose(observation, data['observations'][row + 1], atol=1e-4)
