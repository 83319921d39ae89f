"""The one-state comparison of policies."""

import jax.numpy as jnp
import numpy as np
import pytest

from figures import bandit


def test_the_critic_likes_one_spot_of_the_rarest_mode_most():
    critic = bandit.FixedCritic()
    at_modes = critic.apply(None, None, jnp.asarray(bandit.MODES))[0]
    best = float(critic.apply(None, None, jnp.asarray(bandit.BEST))[0])
    assert best > 1.2
    np.testing.assert_allclose(at_modes[:3], 0.3, atol=1e-3)
    assert int(at_modes.argmax()) == 3 == int(bandit.WEIGHTS.argmin())


def test_the_summary_counts_modes_and_what_is_off_the_support():
    summary = bandit.summary(np.array([[0.55, 0.55], [0.55, 0.71], [-0.55, 0.55], [0.0, 0.0]]))
    assert (summary['best mode'], summary['off support'], summary['modes kept']) == (0.5, 0.25, 2)
    # The best mode spreads over a standard deviation of the data in one axis, the other nowhere.
    assert summary['spread'] == pytest.approx(0.25)


def test_a_policy_plays_and_is_drawn(tmp_path):
    policy = 'DFP, mean shift'
    drawn = bandit.play(policy, seed=0, offline_steps=3, online_steps=2)
    for samples, actions in drawn.values():
        assert samples.shape == actions.shape == (bandit.NUM_DRAWN, 2)
        assert max(np.abs(samples).max(), np.abs(actions).max()) <= 1
        assert bandit.summary(actions)['mean Q'] >= bandit.summary(samples)['mean Q'] - 0.02
    bandit.picture({policy: drawn}, tmp_path / 'bandit.png')
    assert (tmp_path / 'bandit.png').stat().st_size > 10_000
