"""Chunks of actions and episodes in a row, on a toy whose every step is known and on MuJoCo."""

import itertools
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from counter_env import Counter

from envs import make_env
from envs.episodes import ActionChunks, EndlessPlay, EpisodeQueue, episode_seed
from utils.errors import UserError

HORIZON = 3
NOTHING = np.zeros((0, 1), np.float32)
CUBE = 'cube-single-play-singletask-task1-v0'
CUBE_HORIZON = 5


class Silent(Counter):
    """Says nothing of success."""

    def step(self, action):
        *others, _ = super().step(action)
        return *others, {}


class Cut(Counter):
    """Its time is over after three steps."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.steps == 3, info


def test_a_chunk_is_executed_to_its_end_and_records_what_happened():
    env = ActionChunks(Counter(), HORIZON)
    env.reset(seed=4)  # six steps
    chunk = np.array([[0.5], [-3.0], [0.25]], np.float32)
    observation, reward, terminated, truncated, info = env.step(chunk)
    transitions = info['transitions']
    np.testing.assert_array_equal(observation, [4, 3])
    np.testing.assert_array_equal(transitions['observations'], [[4, 0], [4, 1], [4, 2]])
    np.testing.assert_array_equal(transitions['actions'][:, 0], [0.5, -1.0, 0.25])
    np.testing.assert_array_equal(transitions['rewards'], [0.5, -1.0, 0.25])
    np.testing.assert_array_equal(transitions['next_observation'], [4, 3])
    assert reward == -0.25
    assert (terminated, truncated, transitions['done'], transitions['length']) == (
        False, False, False, 3,
    )  # fmt: skip


@pytest.mark.parametrize(('seed', 'mask'), [(10, 0.0), (5, 1.0)])  # two steps each
def test_a_chunk_stops_with_the_episode_and_a_time_limit_is_no_termination(seed, mask):
    env = ActionChunks(Counter(), HORIZON)
    env.reset(seed=seed)
    _, _, terminated, truncated, info = env.step(np.ones((HORIZON, 1), np.float32))
    transitions = info['transitions']
    assert (terminated, truncated) == (mask == 0, mask == 1)
    assert transitions['done']
    assert transitions['length'] == 2
    np.testing.assert_array_equal(transitions['masks'][:2], [1.0, mask])
    np.testing.assert_array_equal(transitions['next_observation'], [seed, 2])


def test_a_short_chunk_is_executed_to_its_end():
    env = ActionChunks(Counter(), HORIZON)
    env.reset(seed=4)
    _, _, _, _, info = env.step(np.ones((1, 1), np.float32))
    assert info['transitions']['length'] == 1
    assert info['transitions']['observations'].shape == (HORIZON, 2)


def test_actions_of_other_bounds_are_not_cut_but_refused():
    env = Counter()
    env.action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    with pytest.raises(ValueError, match=r'not in \[-1, 1\]; use envs.make_env'):
        ActionChunks(env, HORIZON)


def test_seeds_of_episodes_are_always_the_same_and_all_different():
    assert episode_seed(3, 5) == episode_seed(3, 5)
    numbers = itertools.product(range(10), range(1000), ('play', 'evaluate'))
    seeds = {episode_seed(*each) for each in numbers}
    assert len(seeds) == 20_000
    assert 0 <= min(seeds) < max(seeds) < 2**32


def lengths_of_episodes(seed, count):
    """Of `Counter`."""
    return [2 + episode_seed(seed, episode) % 5 for episode in range(count)]


def play(env_class=Counter, start=None):
    env = EndlessPlay(ActionChunks(env_class(), HORIZON))
    if start is not None:
        env.set_wrapper_attr('start', start)
    return env


def test_endless_play_begins_each_episode_by_its_own_seed():
    env = play(start=(8, 0, NOTHING))
    observation, info = env.reset()
    played = []
    for _ in range(20):
        assert info['episode'] == len(played)
        assert observation[0] == np.float32(episode_seed(8, len(played)))
        steps = observation[1]
        observation, _, terminated, truncated, info = env.step((np.ones((HORIZON, 1)), HORIZON))
        assert not terminated
        assert not truncated
        if info['transitions']['done']:
            played.append(steps + info['transitions']['length'])
            assert info['success'] == (episode_seed(8, len(played) - 1) % 2 == 0)
            assert observation[1] == 0
    assert len(played) > 5
    assert played == lengths_of_episodes(8, len(played))


def test_endless_play_executes_as_many_actions_as_it_is_asked_to():
    env = gymnasium.vector.SyncVectorEnv([play] * 2)
    numbers = [next(n for n in range(99) if lengths_of_episodes(s, n + 1)[n] == 5) for s in (0, 1)]
    env.set_attr('start', [(0, numbers[0], NOTHING), (1, numbers[1], NOTHING)])
    before, info = env.reset()
    assert info['episode'].tolist() == numbers
    chunks = np.ones((2, HORIZON, 1), np.float32)
    observations, _, _, _, info = env.step((chunks, np.array([0, 2])))
    assert info['transitions']['length'].tolist() == [0, 2]
    assert not info['transitions']['done'].any()
    np.testing.assert_array_equal(observations[0], before[0])
    assert observations[:, 1].tolist() == [0, 2]
    observations, _, _, _, info = env.step((chunks, np.array([3, 3])))
    assert info['transitions']['done'].tolist() == [False, True]
    np.testing.assert_array_equal(info['transitions']['next_observation'][:, 1], [3, 5])
    assert info['episode'].tolist() == [numbers[0], numbers[1] + 1]
    assert observations[:, 1].tolist() == [3, 0]


def test_endless_play_needs_to_know_where_to_start():
    with pytest.raises(RuntimeError, match='nowhere to start; set_attr'):
        play().reset(seed=0)


def test_an_episode_lost_with_its_simulator_has_ended_and_the_next_one_begins():
    env = play(start=(8, 2, np.ones((1, 1), np.float32)))
    observation, reward, terminated, truncated, info = env.start_again(5)
    np.testing.assert_array_equal(observation, [np.float32(episode_seed(8, 6)), 0])
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info['episode'], info['success'], info['replaced']) == (6, False, 0)
    transitions = info['transitions']
    assert (transitions['length'], transitions['done']) == (0, True)
    _, _, _, _, after = env.step((np.ones((HORIZON, 1)), 1))
    assert transitions.keys() == after['transitions'].keys()
    assert info.keys() == after.keys()


def test_a_queue_goes_on_with_the_episode_that_was_lost():
    queue = EpisodeQueue(ActionChunks(Counter(), HORIZON))
    queue.queue = [(n, 10 + n) for n in (1, 3, 5)]  # of 3, 5 and 2 steps
    observation, _, _, _, info = queue.start_again(3)
    np.testing.assert_array_equal(observation, [13, 0])
    assert (info['episode'], info['finished'], info['length']) == (3, False, 0)
    ended = []
    while info['episode'] >= 0:
        _, _, _, _, info = queue.step(np.ones((HORIZON, 1), np.float32))
        ended += [info['length']] * info['finished']
    assert ended == [5, 2]
    assert queue.start_again(-1)[-1]['episode'] == -1


def test_a_simulator_that_does_not_repeat_itself_is_found_out():
    number = lengths_of_episodes(2, 50).index(6)
    actions = np.ones((5, 1), np.float32)
    observation, _ = play(start=(2, number, actions)).reset()
    assert observation[1] == 5
    message = f'Cut: episode {number} of seed 2 ended after 3 of the 5 actions .* does not repeat'
    with pytest.raises(UserError, match=message):
        play(Cut, start=(2, number, actions)).reset()


def cube_play():
    return EndlessPlay(ActionChunks(make_env(CUBE), CUBE_HORIZON))


def cube_actions(step):
    return np.random.default_rng(step).uniform(-1, 1, (CUBE_HORIZON, 5)).astype(np.float32)


def go_on(start, steps):
    """Plays on from `start`: bytes of all that is seen in the chunks numbered `steps`."""
    env = cube_play()
    env.start = start
    observation, info = env.reset()
    seen = [observation.tobytes(), info['episode']]
    for step in steps:
        observation, reward, _, _, info = env.step((cube_actions(step), CUBE_HORIZON))
        transitions = {key: np.asarray(value) for key, value in info['transitions'].items()}
        seen += [observation.tobytes(), reward, info['success'], info['episode']]
        seen += [value.tobytes() for value in transitions.values()]
    return seen


def cube_start():
    """A run's episode 7 after 13 chunks."""
    actions = np.concatenate([cube_actions(step) for step in range(13)])
    return 4, 7, actions


def test_a_rebuilt_simulator_goes_on_bit_by_bit():
    whole = go_on((4, 7, np.zeros((0, 5))), range(45))  # past the step limit, 200
    width = (len(whole) - 2) // 45
    assert whole[2 + 3] == 7
    assert whole[-width + 3] == 8
    resumed = go_on(cube_start(), range(13, 45))
    assert resumed[0] == whole[2 + 12 * width]
    assert resumed[2:] == whole[2 + 13 * width :]
    code = (
        'import sys; sys.path[:0] = [".", "tests"]; import test_episodes as t, pickle; '
        'pickle.dump(t.go_on(t.cube_start(), range(13, 45)), sys.stdout.buffer)'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True)
    assert pickle.loads(run.stdout) == resumed


def test_an_end_that_says_nothing_of_success_is_an_error():
    chunk = np.ones((HORIZON, 1), np.float32)
    message = r"Silent: .*last step has no 'success'; let .* add info\['success'\]"
    queue = EpisodeQueue(ActionChunks(Silent(), HORIZON))
    queue.queue = ((0, 0),)  # two steps
    queue.reset()
    with pytest.raises(ValueError, match=message):
        queue.step(chunk)
    endless = play(Silent, start=(0, lengths_of_episodes(0, 50).index(2), NOTHING))
    endless.reset()
    with pytest.raises(ValueError, match=message):
        endless.step((chunk, HORIZON))
