"""Ours beside robomimic's own wrapper and loader, where those can be imported (they need torch).

python -m pip install -r tests/requirements-robomimic.txt
"""

import sys
import types

import numpy as np
import pytest

pytest.importorskip('torch', reason='see tests/requirements-robomimic.txt')

from envs import make_env
from envs.robomimic import files, scripted
from envs.robomimic.names import LIMITS, parse


@pytest.fixture(scope='module')
def wrapper():
    """robomimic's class, which imports a package that it needs for the name of an error alone."""
    stub = types.ModuleType('mujoco_py')
    stub.builder = types.SimpleNamespace(MujocoException=Exception)
    sys.modules['mujoco_py'] = stub
    from robomimic.envs.env_robosuite import EnvRobosuite
    from robomimic.utils import obs_utils

    keys = list(parse('lift-mh-low_dim').widths)
    obs_utils.initialize_obs_utils_with_obs_specs({'obs': {'low_dim': keys}})
    yield EnvRobosuite
    del sys.modules['mujoco_py']


def compare(name, actions, wrapper, seed):
    """Plays the same in both environments until ours ends; returns how that ended."""
    task = parse(name)
    env_args = files.default_env_args(task)
    ours = make_env(name, robomimic_dataset_dir='/nowhere')
    theirs = wrapper(env_args['env_name'], **env_args['env_kwargs'])

    def flat(parts):
        return np.concatenate([parts[key] for key in task.widths]).astype(np.float32)

    observation, _ = ours.reset(seed=seed)
    theirs.env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    np.testing.assert_array_equal(observation, flat(theirs.reset()))
    for action in actions:
        observation, reward, terminated, truncated, info = ours.step(action)
        parts, their_reward, _, _ = theirs.step(action)
        np.testing.assert_array_equal(observation, flat(parts))
        assert reward == their_reward - 1
        assert terminated == info['success'] == theirs.is_success()['task']
        if terminated or truncated:
            return terminated, truncated
    return False, False


@pytest.mark.parametrize('task', LIMITS)
def test_observations_rewards_and_endings_are_those_of_robomimic(task, wrapper):
    name = f'{task}-scripted-low_dim'
    episode = scripted.Demonstrator(parse(name)).play((1, 0))
    seed = int(np.random.SeedSequence((1, 0)).generate_state(2)[0])
    assert compare(name, episode['actions'], wrapper, seed) == (True, False)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 7)).astype(np.float32)
    assert compare(f'{task}-mh-low_dim', actions, wrapper, seed=3) == (False, False)


def test_scripted_data_is_read_by_robomimics_loader(tmp_path, wrapper):
    from robomimic.utils.dataset import SequenceDataset

    task = parse('lift-scripted-low_dim')
    script = scripted.Demonstrator(task)
    episodes = [script.play((2, episode)) for episode in range(2)]
    path = tmp_path / 'lift.hdf5'
    files.write_file(path, task, episodes)
    loaded = SequenceDataset(
        str(path), list(task.widths), ('actions', 'rewards', 'dones'), load_next_obs=True
    )
    assert len(loaded) == sum(len(episode['actions']) - 1 for episode in episodes)
    row = loaded[3]
    np.testing.assert_array_equal(row['actions'][0], episodes[0]['actions'][3])
    np.testing.assert_array_equal(row['next_obs']['object'][0], episodes[0]['observations'][4, 9:])


def test_scripted_states_are_played_back_by_robomimic(wrapper):
    script = scripted.Demonstrator(parse('lift-scripted-low_dim'))
    episode = script.play((2, 0))
    env_args = files.default_env_args(parse('lift-scripted-low_dim'))
    env = wrapper(env_args['env_name'], **env_args['env_kwargs'])
    env.reset()
    env.reset_to({'model': episode['model'].item().decode(), 'states': episode['states'][0]})
    solved = int(episode['rewards'].argmax())
    for row in (0, solved, solved + 1):
        env.reset_to({'states': episode['states'][row]})
        assert env.is_success()['task'] == (row > solved)
