"""Evaluation, on a toy environment whose every step is known."""

import flax
import jax
import numpy as np
import pytest
from counter_env import Counter
from near_simulators import NearSimulators

from envs.episodes import ActionChunks, episode_seed
from training.evaluation import evaluate
from utils.seeds import stack

HORIZON = 3


class Policy(flax.struct.PyTreeNode):
    """Its action is noise."""

    scale: float = 1.0

    def sample_actions(self, observation, rng):
        return self.scale * jax.random.uniform(rng, (HORIZON, 1)) + 0 * observation[0]


def simulators(num_envs, env_class=Counter):
    return NearSimulators([lambda: ActionChunks(env_class(), HORIZON)] * num_envs)


def score(policy, num_envs, num_episodes, seed):
    (scores,), failure = evaluate([stack([policy])], simulators(num_envs), num_episodes, [seed])
    assert failure is None
    return scores


@pytest.mark.parametrize('num_envs', [1, 2, 4, 7])
def test_every_episode_is_played_once_whatever_the_number_of_environments(num_envs):
    scores = score(Policy(), num_envs, num_episodes=5, seed=10)
    seeds = [episode_seed(10, episode, 'evaluate') for episode in range(5)]
    assert scores['success'] == np.mean([seed % 2 == 0 for seed in seeds])
    assert scores['length'] == np.mean([2 + seed % 5 for seed in seeds])


def test_runs_evaluate_other_episodes_than_their_neighbours_and_than_they_play():
    evaluated = []

    class Told(Counter):
        def reset(self, *, seed=None, options=None):
            evaluated.append(seed)
            return super().reset(seed=seed)

    for seeds in ([0, 1], [2, 3]):
        evaluate([stack([Policy(), Policy()])], simulators(4, Told), 50, seeds)
    played = {episode_seed(seed, episode) for seed in range(4) for episode in range(1000)}
    assert len(evaluated) == len(set(evaluated)) == 4 * 50
    assert not set(evaluated) & played


def test_the_noise_belongs_to_the_episode_not_to_the_environment_that_plays_it():
    results = [score(Policy(), n, num_episodes=6, seed=0)['return'] for n in (1, 2, 5)]
    np.testing.assert_allclose(results, results[0], rtol=1e-6)
    again = score(Policy(), 2, num_episodes=6, seed=0)['return']
    assert again == results[1]
    assert score(Policy(), 2, num_episodes=6, seed=1)['return'] != results[1]


def test_several_policies_in_stacks_of_any_size_get_the_scores_that_each_would_get_alone():
    policies, seeds = [Policy(0.1), Policy(1.0), Policy(0.5)], [0, 1, 7]
    together, _ = evaluate([stack(policies[:2]), stack(policies[2:])], simulators(6), 5, seeds)
    for policy, seed, scores in zip(policies, seeds, together, strict=True):
        assert scores == pytest.approx(score(policy, 2, 5, seed), rel=1e-6)


class Fragile(Counter):
    """Raises before some steps of some episodes, `(seed, step)`, as often as they are listed."""

    faults: list = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self._fail()
        return result

    def step(self, action):
        self._fail()
        return super().step(action)

    def _fail(self):
        if (self.seed, self.steps) in self.faults:
            self.faults.remove((self.seed, self.steps))
            raise ZeroDivisionError('by design')


SEEDS = [episode_seed(10, episode, 'evaluate') for episode in range(5)]
LONG = next(seed for seed in SEEDS if 2 + seed % 5 > 4)


@pytest.mark.parametrize('num_envs', [1, 2, 7])
@pytest.mark.parametrize('once', [[(LONG, 4)], [(seed, i) for seed in SEEDS for i in range(2)]])
def test_an_evaluation_with_failures_has_the_scores_of_one_without(num_envs, once):
    Fragile.faults = once * 1
    (scores,), failure = evaluate([stack([Policy()])], simulators(num_envs, Fragile), 5, [10])
    assert 0 < scores.pop('simulator_failures') <= len(once)
    assert scores.items() <= score(Policy(), num_envs, 5, 10).items()
    assert (failure, Fragile.faults) == (None, [])


@pytest.mark.parametrize('num_envs', [1, 2, 7])
@pytest.mark.parametrize('step', [0, 4])
def test_an_episode_at_which_a_simulator_fails_twice_counts_as_far_as_it_was_played(num_envs, step):
    Fragile.faults = [(LONG, step)] * 2
    (scores,), failure = evaluate([stack([Policy()])], simulators(num_envs, Fragile), 5, [10])
    assert f'it raised by design, twice after {step // 3 * 3} actions' in str(failure)
    assert f'reset(seed={LONG})' in str(failure)
    done = {seed: 2 + seed % 5 for seed in SEEDS} | {LONG: step // 3 * 3}
    assert scores['length'] == np.mean(list(done.values()))
    assert scores['success'] == np.mean([seed % 2 == 0 and seed != LONG for seed in SEEDS])
    assert scores['simulator_failures'] == 2
