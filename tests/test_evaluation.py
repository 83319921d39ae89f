"""Queues of episodes and evaluation, on a toy environment whose every step is known."""

import flax
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counter_env import Counter

from envs.episodes import ActionChunks, EpisodeQueue, episode_seed
from training import evaluation
from training.evaluation import evaluate
from utils.seeds import stack

HORIZON = 3


class Policy(flax.struct.PyTreeNode):
    """Its action is noise."""

    scale: float = 1.0

    def sample_actions(self, observation, rng):
        return self.scale * jax.random.uniform(rng, (HORIZON, 1)) + 0 * observation[0]


def vector_env(num_envs):
    make = lambda: EpisodeQueue(ActionChunks(Counter(), HORIZON))  # noqa: E731
    return gymnasium.vector.SyncVectorEnv([make] * num_envs)


def score(policy, num_envs, num_episodes, seed):
    (scores,) = evaluate([stack([policy])], vector_env(num_envs), num_episodes, [seed])
    return scores


@pytest.mark.parametrize('num_envs', [1, 2, 4, 7])
def test_every_episode_is_played_once_whatever_the_number_of_environments(num_envs):
    scores = score(Policy(), num_envs, num_episodes=5, seed=10)
    seeds = [episode_seed(10, episode, 'evaluate') for episode in range(5)]
    assert scores['success'] == np.mean([seed % 2 == 0 for seed in seeds])
    assert scores['length'] == np.mean([2 + seed % 5 for seed in seeds])


def test_runs_evaluate_other_episodes_than_their_neighbours_and_than_they_play():
    env, queues = vector_env(4), []
    set_attr = env.set_attr
    env.set_attr = lambda name, values: queues.extend(values) or set_attr(name, values)
    for seeds in ([0, 1], [2, 3]):
        evaluate([stack([Policy(), Policy()])], env, 50, seeds)
    evaluated = {seed for queue in queues for _, seed in queue}
    played = {episode_seed(seed, episode) for seed in range(4) for episode in range(1000)}
    assert len(evaluated) == 4 * 50
    assert not evaluated & played


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
    score(Policy(), 2, num_episodes=2, seed=3)
    lengths = [2 + episode_seed(3, episode, 'evaluate') % 5 for episode in range(2)]
    assert len(asked) == -(-max(lengths) // HORIZON)
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


def test_several_policies_in_stacks_of_any_size_get_the_scores_that_each_would_get_alone():
    policies, seeds = [Policy(0.1), Policy(1.0), Policy(0.5)], [0, 1, 7]
    together = evaluate([stack(policies[:2]), stack(policies[2:])], vector_env(6), 5, seeds)
    for policy, seed, scores in zip(policies, seeds, together, strict=True):
        assert scores == pytest.approx(score(policy, 2, 5, seed), rel=1e-6)


def test_an_evaluation_can_be_left_before_any_chunk():
    class Left(Exception):
        pass

    def leave():
        raise Left

    with pytest.raises(Left):
        evaluate([stack([Policy()])], vector_env(2), 2, [0], leave)
