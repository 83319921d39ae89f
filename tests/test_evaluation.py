"""Chunks, queues of episodes, and evaluation, on a toy environment whose every step is known."""

import flax
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.chunks import ActionChunks, EndlessPlay, EpisodeQueue
from utils import evaluation
from utils.evaluation import evaluate
from utils.seeds import stack

HORIZON = 3


class Counter(gymnasium.Env):
    """Counts steps; the episode reset with seed s lasts 2 + s % 5 steps and succeeds if s is even.

    Odd ones run out of time. The observation is (seed, step), the reward the first action.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    seed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = self.seed if seed is None else seed, 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        over, even = self.steps == 2 + self.seed % 5, self.seed % 2 == 0
        info = {'success': over and even}
        return self._observe(), float(action[0]), over and even, over and not even, info

    def _observe(self):
        return np.array([self.seed, self.steps], np.float32)


class Policy(flax.struct.PyTreeNode):
    """Its action is noise."""

    scale: float = 1.0

    def sample_actions(self, observation, rng):
        return self.scale * jax.random.uniform(rng, (HORIZON, 1)) + 0 * observation[0]


def vector_env(num_envs):
    make = lambda: EpisodeQueue(ActionChunks(Counter(), HORIZON))  # noqa: E731
    return gymnasium.vector.SyncVectorEnv([make] * num_envs)


def score(policy, num_envs, num_episodes, seed):
    (scores,) = evaluate(stack([policy]), vector_env(num_envs), num_episodes, [seed])
    return scores


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


@pytest.mark.parametrize('num_envs', [1, 2, 4, 7])
def test_every_episode_is_played_once_whatever_the_number_of_environments(num_envs):
    scores = score(Policy(), num_envs, num_episodes=5, seed=10)
    assert scores['success'] == 3 / 5  # seeds 10, 12, 14
    assert scores['length'] == np.mean([2, 3, 4, 5, 6])


def test_the_noise_belongs_to_the_episode_not_to_the_environment_that_plays_it():
    results = [score(Policy(), n, num_episodes=6, seed=0)['return'] for n in (1, 2, 5)]
    np.testing.assert_allclose(results, results[0], rtol=1e-6)
    again = score(Policy(), 2, num_episodes=6, seed=0)['return']
    assert again == results[1]
    assert score(Policy(), 2, num_episodes=6, seed=1)['return'] != results[1]


def test_the_policy_is_asked_once_per_chunk_for_all_environments(monkeypatch):
    asked = []
    act = evaluation._act
    monkeypatch.setattr(evaluation, '_act', lambda *args: asked.append(args) or act(*args))
    score(Policy(), 2, num_episodes=2, seed=3)  # episodes of five and six steps
    assert len(asked) == 2
    assert all(args[1].shape == (1, 2, 2) for args in asked)


def test_a_better_policy_scores_better():
    returns = [score(Policy(scale), 2, num_episodes=4, seed=0)['return'] for scale in (0.1, 1.0)]
    assert returns[1] == pytest.approx(10 * returns[0], rel=1e-5)


def test_pytrees_of_policies_do_not_retrace():
    size = evaluation._act._cache_size
    score(Policy(jnp.float32(0.3)), 3, num_episodes=3, seed=0)
    before = size()
    score(Policy(jnp.float32(0.7)), 3, num_episodes=7, seed=2)
    assert size() == before


def test_several_agents_get_the_scores_that_each_would_get_alone():
    policies, seeds = [Policy(0.1), Policy(1.0), Policy(0.5)], [0, 1, 7]
    together = evaluate(stack(policies), vector_env(6), 5, seeds)
    for policy, seed, scores in zip(policies, seeds, together, strict=True):
        assert scores == pytest.approx(score(policy, 2, 5, seed), rel=1e-6)


def test_endless_play_goes_on_after_the_end_and_executes_what_it_is_asked_to():
    env = gymnasium.vector.SyncVectorEnv(
        [lambda: EndlessPlay(ActionChunks(Counter(), HORIZON))] * 2
    )
    observations, _ = env.reset(seed=[0, 3])  # two and five steps
    chunks = np.ones((2, HORIZON, 1), np.float32)
    observations, _, terminated, truncated, info = env.step((chunks, np.array([3, 2])))
    assert info['transitions']['length'].tolist() == [2, 2]
    assert info['transitions']['done'].tolist() == [True, False]
    assert info['success'].tolist() == [True, False]
    np.testing.assert_array_equal(info['transitions']['next_observation'], [[0, 2], [3, 2]])
    np.testing.assert_array_equal(observations[1], [3, 2])
    assert observations[0, 1] == 0  # the next episode
    assert not terminated.any()
    assert not truncated.any()
    before = observations
    observations, _, _, _, info = env.step((chunks, np.array([0, 1])))
    assert info['transitions']['length'].tolist() == [0, 1]
    assert not info['transitions']['done'].any()
    np.testing.assert_array_equal(observations[0], before[0])
