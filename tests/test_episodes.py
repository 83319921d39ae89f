"""Chunks of actions and seeded episodes, on a toy whose every step is known and on MuJoCo."""

import itertools
import pickle

import numpy as np
import pytest
from counter_env import Counter
from processes import run_python

from envs import make_env
from envs.episodes import ActionChunks, episode_seed

HORIZON = 3
CUBE = 'cube-single-play-singletask-task1-v0'
CUBE_HORIZON = 5


class Camera(Counter):
    """Sees an image, too."""

    def _observe(self):
        image = np.full((4, 5, 3), self.steps, np.uint8)
        return {'state': super()._observe(), 'image': image}


def test_a_chunk_is_executed_to_its_end_and_records_what_happened():
    env = ActionChunks(Counter(), HORIZON)
    np.testing.assert_array_equal(env.begin(4), [4, 0])  # six steps
    transitions, _, success = env.play(np.array([[0.5], [-3.0], [0.25]], np.float32))
    np.testing.assert_array_equal(transitions['observations'], [[4, 0], [4, 1], [4, 2]])
    np.testing.assert_array_equal(transitions['actions'][:, 0], [0.5, -1.0, 0.25])
    np.testing.assert_array_equal(transitions['rewards'], [0.5, -1.0, 0.25])
    np.testing.assert_array_equal(transitions['next_observation'], [4, 3])
    assert (transitions['done'], transitions['length'], success) == (False, 3, False)


@pytest.mark.parametrize(('seed', 'mask'), [(10, 0.0), (5, 1.0)])  # two steps each
def test_a_chunk_stops_with_the_episode_and_a_time_limit_is_no_termination(seed, mask):
    env = ActionChunks(Counter(), HORIZON)
    env.begin(seed)
    transitions, _, success = env.play(np.ones((HORIZON, 1), np.float32))
    assert transitions['done']
    assert transitions['length'] == 2
    assert success == (mask == 0)
    np.testing.assert_array_equal(transitions['masks'][:2], [1.0, mask])
    np.testing.assert_array_equal(transitions['next_observation'], [seed, 2])


def test_observations_may_be_a_dict_of_arrays_of_any_shape_and_type():
    env = ActionChunks(Camera(), HORIZON)
    assert env.begin(4, [np.ones((1, 1))])['image'].max() == 1
    transitions, *_ = env.play(np.ones((2, 1), np.float32))
    observations, reached = transitions['observations'], transitions['next_observation']
    assert observations['image'].dtype == np.uint8
    assert transitions['length'] == 2  # of three: the chunk is short
    np.testing.assert_array_equal(observations['image'][:, 0, 0, 0], [1, 2, 0])
    np.testing.assert_array_equal(observations['state'], [[4, 1], [4, 2], [0, 0]])
    assert reached['image'].shape == (4, 5, 3)
    np.testing.assert_array_equal(reached['state'], [4, 3])


def test_seeds_of_episodes_are_always_the_same_and_all_different():
    assert episode_seed(3, 5) == episode_seed(3, 5)
    numbers = itertools.product(range(10), range(1000), ('play', 'evaluate'))
    seeds = {episode_seed(*each) for each in numbers}
    assert len(seeds) == 20_000
    assert 0 <= min(seeds) < max(seeds) < 2**32


def test_an_episode_that_ends_within_the_actions_played_before_is_found_out():
    env = ActionChunks(Counter(), HORIZON)
    np.testing.assert_array_equal(env.begin(4, [np.ones((3, 1)), np.ones((2, 1))]), [4, 5])
    assert env.begin(4, [np.ones((6, 1))]) is None


def cube_actions(step):
    return np.random.default_rng(step).uniform(-1, 1, (CUBE_HORIZON, 5)).astype(np.float32)


def go_on(before, steps):
    """Plays an episode on: bytes of all that is seen in the chunks numbered `steps`."""
    env = ActionChunks(make_env(CUBE), CUBE_HORIZON)
    observation = env.begin(47, [cube_actions(step) for step in before])
    seen = [observation.tobytes()]
    for step in steps:
        transitions, _, success = env.play(cube_actions(step))
        seen += [success, *(np.asarray(value).tobytes() for value in transitions.values())]
    return seen


@pytest.mark.slow
def test_a_rebuilt_simulator_goes_on_bit_by_bit():
    whole = go_on([], range(40))  # up to the step limit, 200
    resumed = go_on(range(13), range(13, 40))
    assert resumed[1:] == whole[-len(resumed) + 1 :]
    assert resumed[0] == whole[8 * 13 - 1]
    code = (
        'import sys, test_episodes as t, pickle; '
        'pickle.dump(t.go_on(range(13), range(13, 40)), sys.stdout.buffer)'
    )
    run = run_python('-c', code, text=False, check=True)
    assert pickle.loads(run.stdout) == resumed
