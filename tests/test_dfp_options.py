"""DFP's options beyond the paper, each by its definition; all are off by default."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import (
    FixedCritic,
    compiled,
    cut,
    make,
    make_batch,
    one_step,
    train_on,
    with_critic,
)

from training.export import programs

RNG = jax.random.PRNGKey(0)


def positives_of(agent, batch, is_full=None):
    """The candidates [B, N, D] in order and their values, and what the top-K term moves to."""
    observations, (chunks, valid) = batch['observations'], agent.masked_chunks(batch)
    is_full = valid[:, -1] if is_full is None else is_full
    candidates, values = compiled(agent, 'ranked_candidates', observations, RNG)
    positives, options = compiled(agent, 'top_k_positives', observations, RNG, chunks, is_full)
    return np.asarray(candidates), np.asarray(values), positives, options


def test_tilted_weights_are_a_softmax_of_values_in_units_of_their_spread():
    agent, batch = make('dfp', tilt=0.5, top_k=16).begin_online(), make_batch()
    candidates, values, positives, options = positives_of(agent, batch)
    spread = np.sqrt(values.var(axis=1).mean())
    exponents = np.exp(values / (0.5 * spread))
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(options['weight_positives'], 16 * shares, rtol=1e-3)
    np.testing.assert_array_equal(positives, candidates)


@pytest.mark.parametrize('weights', [{}, {'tilt': 0.5}, {'soft_weights': True}])
def test_the_data_has_its_share_of_the_positives_weights_where_its_chunk_is_whole(weights):
    agent = make('dfp', data_mass=0.3, **weights).begin_online()
    batch = cut(make_batch(), [2, 5], length=3)
    candidates, _, positives, options = positives_of(agent, batch)
    found = np.asarray(options['weight_positives'])
    expected = np.where(np.isin(np.arange(16), [2, 5]), 0, 0.3)
    np.testing.assert_allclose(found[:, -1] / found.sum(axis=1), expected, atol=1e-6)
    data = batch['actions'].reshape(16, 1, 8)
    whole = np.delete(np.arange(16), [2, 5])
    np.testing.assert_array_equal(positives[:, :4], candidates[:, :4])
    np.testing.assert_array_equal(positives[whole, 4:], data[whole])


def test_positives_climb_a_step_of_the_set_length_up_the_target_critic():
    agent, batch = make('dfp', refine_step=0.1).begin_online(), make_batch()
    agent = with_critic(agent, FixedCritic())  # its members agree, so no step is shorter
    candidates, _, positives, options = positives_of(agent, batch)
    best = candidates[:, :4]
    up = 0.5 - best
    step = 0.1 * 8**0.5 * up / np.linalg.norm(up, axis=-1, keepdims=True)
    np.testing.assert_allclose(positives, np.clip(best + step, -1, 1), rtol=1e-4, atol=1e-6)
    assert not options


def test_the_q_term_may_be_measured_in_mean_absolute_values():
    batch = make_batch()
    agents = (
        make('dfp', q_weight=2.0, normalize_q_loss=normalize).begin_online()
        for normalize in (False, True)
    )
    plain, scaled = (compiled(x, 'actor_loss', x.params, batch, RNG)[1] for x in agents)
    agent = make('dfp').begin_online()
    particle_rng, _ = jax.random.split(RNG)
    particles = compiled(agent, 'propose', agent.params, batch['observations'], 8, particle_rng)
    values = compiled(agent, 'score', batch['observations'], particles)
    expected = plain['actor/q_loss'] / jnp.abs(values).mean()
    np.testing.assert_allclose(scaled['actor/q_loss'], expected, rtol=1e-4)


# ---- trust region -------------------------------------------------------------------------------


def factor_after(agent, distance, log_factor=0.0):
    """The change of the factor's logarithm by one update's gradient, and the factor."""
    params = agent.params | {'log_factor': {'params': {'log_value': jnp.float32(log_factor)}}}
    old = jnp.zeros((16, 8, 8))
    grad = jax.grad(lambda p: agent.trust_region(p, old + distance, old)[1])(params)
    factor, _ = agent.trust_region(params, old + distance, old)
    return -float(grad['log_factor']['params']['log_value']), float(factor)


def test_the_factor_falls_beyond_the_trust_region_and_rises_within_it():
    agent = make('dfp', trust_region=0.1)
    for distance, change in ((0.0, 1), (0.05, 0.75), (0.1, 0), (0.12, -0.44), (1.0, -1)):
        found, factor = factor_after(agent, distance)
        np.testing.assert_allclose(found, change, atol=1e-4)
        assert factor == 1
    assert factor_after(agent, 0.0, log_factor=5.0)[0] == 0  # no farther than to 100
    assert factor_after(agent, 1.0, log_factor=5.0)[0] == -1
    assert factor_after(agent, 1.0, log_factor=-5.0)[0] == 0
    np.testing.assert_allclose(factor_after(agent, 0.0, log_factor=1.0)[1], np.e, rtol=1e-5)


def test_the_factor_multiplies_the_top_k_term_and_measures_the_same_noise():
    agent = make('dfp', trust_region=0.1).begin_online()
    params = agent.params | {'log_factor': {'params': {'log_value': jnp.float32(1.0)}}}
    batch = make_batch()
    _, info = compiled(agent, 'actor_loss', params, batch, RNG)
    plain = make('dfp').begin_online()
    _, expected = compiled(plain, 'actor_loss', plain.params, batch, RNG)
    np.testing.assert_allclose(info['actor/topk_weight'], 0.5 * np.e, rtol=1e-5)
    np.testing.assert_allclose(
        info['actor/topk_loss'], np.e * expected['actor/topk_loss'], rtol=1e-4
    )
    assert info['actor/trust_region_loss'] == -1  # at the switch the policy is π_old


# ---- edit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('edit_all', [False, True])
def test_an_edit_comes_after_the_choice_or_before_it(edit_all):
    agent = make('dfp', edit_scale=0.3, edit_all=edit_all, num_samples=5)
    observations = make_batch()['observations']
    noise = compiled(agent, 'draw_noise', observations, 5, RNG)
    draft_noise, edit_noise = jnp.split(noise, 2, axis=-1)
    edit = lambda *x: compiled(agent, 'edit', agent.params, observations, *x)[0]  # noqa: E731
    chunks = compiled(agent, 'draft', agent.params, observations, draft_noise)
    if edit_all:
        chunks = edit(chunks, edit_noise)
    expected, value = compiled(agent, 'choose', observations, chunks)
    if not edit_all:
        expected = edit(expected, edit_noise[:, 0])
        value = compiled(agent, 'score', observations, expected[:, None])[:, 0]
    found = compiled(agent, 'best_of', observations, noise)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(found[1], value, atol=1e-5)
    played = agent.sample_actions(observations, RNG).reshape(16, 8)
    np.testing.assert_allclose(played, expected, atol=1e-5)
    # What is exported takes the noise of the edit as well, and plays the same.
    shaped = noise.reshape(16, 5, *agent.noise_shape)
    chunk, exported = jax.jit(programs(agent)['best_of_n'].function)(observations, shaped)
    np.testing.assert_allclose(chunk.reshape(16, 8), expected, atol=1e-5)
    np.testing.assert_allclose(exported, value, atol=1e-5)


def test_the_policy_and_its_candidates_are_trained_without_the_edit():
    agent, plain = (make('dfp', edit_scale=e).begin_online() for e in (0.3, 0.0))
    plain = plain.replace(params={name: agent.params[name] for name in plain.params})
    plain = plain.renew_slow('actor').renew_slow('critic')
    batch = make_batch()

    def gradient(agent):
        return jax.jit(jax.grad(lambda p: agent.actor_loss(p, batch, RNG)[0]))(agent.params)

    found, expected = gradient(agent), gradient(plain)
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(check, found['actor'], expected['actor'])
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(found['edit'])) > 0


def test_an_edit_learns_to_climb_q_from_where_the_policy_is():
    """Data at 0, a critic that likes 0.5, and edits of up to 0.3."""

    def sample(rng):
        return one_step(jnp.ones((64, 1)), 0.01 * jax.random.normal(rng, (64, 2)))

    agent = make('dfp', observation_dim=1, horizon=1, lr=3e-3, edit_scale=0.3, num_samples=4)
    agent = train_on(with_critic(agent, FixedCritic(scale=100.0)), sample, 400)
    observations = jnp.ones((500, 1))
    drafts = compiled(agent, 'propose', agent.params, jnp.ones(1), 500, RNG)
    played = agent.sample_actions(observations, RNG)[:, 0]
    assert jnp.abs(drafts).mean() < 0.25
    assert 0.2 < (played - drafts.mean(axis=0)).mean() < 0.45


# ---- off ----------------------------------------------------------------------------------------


def test_dfp_has_no_edit_unless_asked():
    assert set(make('dfp').params) == {'critic', 'actor'}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'data_mass': 1.0}, r'--agent.data_mass=1.0: must be at least 0 and at most 0.99'),
        ({'tilt': 1.0, 'soft_weights': True}, r'--agent.tilt=1.0: cannot be combined with soft_w'),
        ({'edit_scale': -0.1}, r'--agent.edit_scale=-0.1: must be at least 0'),
        ({'refine_step': -0.1}, r'--agent.refine_step=-0.1: must be at least 0'),
    ],
)
def test_settings_that_cannot_work_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make('dfp', **changes)
