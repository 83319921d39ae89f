"""DFP's policy drifts as its definition says, and each option beyond the paper as its own does."""

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

from agents.drifting import mean_shift_loss, normalized_drifting_loss
from training.export import programs

RNG = jax.random.PRNGKey(0)
PARTICLE_RNG, CANDIDATE_RNG = jax.random.split(RNG)
DATA = make_batch()['actions'].reshape(16, 1, 8)
OBSERVATIONS = make_batch()['observations']


def online(**changes):
    """An agent in its online phase, whose π_old differs from its policy."""
    agent = make('dfp', **changes).begin_online()
    old = jax.tree.map(lambda x: 0.5 * x, agent.slow['actor'])
    return agent.replace(slow=agent.slow | {'actor': old})


def loss_of(agent, batch):
    return compiled(agent, 'actor_loss', agent.params, batch, RNG)


def plain(agent):
    """The same networks with the default settings, so that few programs are compiled."""
    default = make('dfp')
    params = {name: agent.params[name] for name in default.params}
    return default.replace(params=params, slow=agent.slow)


def particles_of(agent):
    return compiled(plain(agent), 'propose', agent.params, OBSERVATIONS, 8, PARTICLE_RNG)


def ranked(agent):
    """π_old's candidates `[B, N, D]` by the definition, and their values, best first."""
    chunks = compiled(plain(agent), 'propose', agent.slow, OBSERVATIONS, 16, CANDIDATE_RNG)
    values = np.asarray(compiled(plain(agent), 'score', OBSERVATIONS, chunks))
    order = np.argsort(-values, axis=1)
    chunks = np.take_along_axis(np.asarray(chunks), order[..., None], axis=1)
    return chunks, np.take_along_axis(values, order, axis=1)


def drift(field, particles, *sets, widths=(0.1,), **weights):
    """The mean drifting loss over the batch, by either field; bandwidths are in units of √D."""
    if field == 'normalized':
        loss = jax.jit(normalized_drifting_loss, static_argnames='temperatures')
        return loss(particles, *sets, temperatures=widths, **weights)[0].mean()
    loss = jax.jit(mean_shift_loss, static_argnames=('bandwidths', 'kernel', 'root_d_units'))
    options = {'bandwidths': widths, 'kernel': 'laplace', 'root_d_units': True}
    return loss(particles, *sets, **options, **weights)[0]


def test_the_mean_shift_field_of_the_data_by_its_formula_and_over_full_chunks_alone():
    agent = make('dfp', data_field='mean_shift', data_bandwidths=(0.3,))
    loss, info = loss_of(agent, cut(make_batch(), [2, 5], length=3))
    x, y = (np.delete(np.float64(v), [2, 5], axis=0) for v in (particles_of(agent), DATA))
    offsets = x[:, None] - x[:, :, None]  # x_j − x_i [B, i, j, D]
    kernels = np.exp(-np.sum(offsets**2, axis=-1) / (2 * 0.3**2 * x.shape[-1])) * (1 - np.eye(8))
    shares = kernels / kernels.sum(axis=-1, keepdims=True)
    field = y - x - np.sum(shares[..., None] * offsets, axis=2)
    step = np.clip(x + field, -1, 1) - x
    np.testing.assert_allclose(loss, np.mean(step**2), rtol=1e-5)
    np.testing.assert_allclose(info['actor/data_force_0.3'], np.mean(field**2), rtol=1e-5)


@pytest.mark.parametrize('fields', [('normalized', 'mean_shift'), ('mean_shift', 'normalized')])
def test_online_loss_adds_a_drift_to_the_best_candidates_of_the_old_policy(fields):
    agent = online(
        data_field=fields[0], topk_field=fields[1], kernel='laplace', temperatures=(0.1, 0.5),
        data_bandwidths=(0.2,), topk_bandwidths=(0.3, 0.6), top_k=3, topk_weight=0.45,
    )  # fmt: skip
    particles, positives = particles_of(agent), ranked(agent)[0][:, :3]
    widths = {'data': {'mean_shift': (0.2,)}, 'topk': {'mean_shift': (0.3, 0.6)}}
    to_data, to_best = (
        drift(field, particles, x, widths=widths[term].get(field, (0.1, 0.5)))
        for field, term, x in zip(fields, widths, (DATA, positives), strict=True)
    )
    loss, info = loss_of(agent, make_batch())
    np.testing.assert_allclose(loss, to_data + 0.45 * to_best, rtol=1e-4)
    _, of_last_states = loss_of(agent, cut(make_batch(), range(16), length=1))
    assert of_last_states['actor/data_loss'] == 0
    assert of_last_states['actor/topk_loss'] == info['actor/topk_loss']


def test_soft_weights_worst_candidates_and_the_q_term_whatever_the_length_of_chunks():
    agent = online(
        soft_weights=True, num_negatives=3, data_weight=0.0, q_weight=2.0,
        topk_field='mean_shift', kernel='laplace',  # the normalized loss hardly depends on weights
    )  # fmt: skip
    particles, (candidates, values) = particles_of(agent), ranked(agent)
    low, high = values[:, -1:], values[:, :1]
    weights = np.maximum(2 * (values - low) / np.maximum(high - low, 1e-8) - 1, 0)[:, :4]
    to_best = drift(
        'mean_shift', particles, candidates[:, :4], candidates[:, -3:],
        widths=(0.2,), weight_positives=weights,
    )  # fmt: skip
    loss, info = loss_of(agent, cut(make_batch(), [2, 5], length=3))
    np.testing.assert_allclose(info['actor/topk_loss'], 0.5 * to_best, rtol=1e-4)
    q = np.asarray(compiled(plain(agent), 'score', OBSERVATIONS, particles))
    np.testing.assert_allclose(info['actor/q_loss'], -2.0 * q.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, -2.0 * q.mean() + 0.5 * to_best, rtol=1e-4)


def test_saturated_coordinates_get_no_gradient():
    agent, batch = make('dfp'), make_batch()
    big = agent.params | {'actor': jax.tree.map(lambda x: 50.0 * x, agent.params['actor'])}
    grad = jax.jit(jax.grad(lambda p: agent.actor_loss(p, batch, RNG)[0]))
    grads, small = grad(big)['actor'], grad(agent.params)['actor']
    particles = compiled(agent, 'propose', big, OBSERVATIONS, 8, RNG)
    assert (jnp.abs(particles) == 1).mean() > 0.9
    bias = lambda tree: np.abs(tree['params']['ConcatDense_1']['bias']).sum()  # noqa: E731
    assert bias(grads) < 0.3 * bias(small)


# ---- positives ----------------------------------------------------------------------------------


def positives_of(agent):
    """What the top-K term moves to, and its options."""
    return compiled(agent, 'top_k_positives', OBSERVATIONS, CANDIDATE_RNG)


def test_positives_climb_a_step_of_the_set_length_up_the_target_critic():
    agent = with_critic(online(refine_step=0.1), FixedCritic())  # members agree: no step is shorter
    positives, options = positives_of(agent)
    unmoved, _ = positives_of(with_critic(online(), FixedCritic()))
    up = 0.5 - unmoved
    step = 0.1 * 8**0.5 * up / np.linalg.norm(up, axis=-1, keepdims=True)
    np.testing.assert_allclose(positives, np.clip(unmoved + step, -1, 1), rtol=1e-4, atol=1e-6)
    assert not options


# ---- trust region -------------------------------------------------------------------------------


def test_the_factor_falls_beyond_the_trust_region_and_rises_within_it():
    agent, old = make('dfp', trust_region=0.1), jnp.zeros((16, 8, 8))

    @jax.jit
    def after(distance, log_factor):
        """The change of the factor's logarithm by one update's gradient, and the factor."""

        def loss(x):
            params = agent.params | {'log_factor': {'params': {'log_value': x}}}
            return agent.trust_region(params, old + distance, old)[::-1]

        grad, factor = jax.grad(loss, has_aux=True)(log_factor)
        return -grad, factor

    for distance, change in ((0.0, 1), (0.05, 0.75), (0.1, 0), (0.12, -0.44), (1.0, -1)):
        np.testing.assert_allclose(after(distance, 0.0), (change, 1), atol=1e-4)
    assert after(0.0, 5.0)[0] == 0  # no farther than to 100
    assert after(1.0, 5.0)[0] == -1
    assert after(1.0, -5.0)[0] == 0
    np.testing.assert_allclose(after(0.0, 1.0)[1], np.e, rtol=1e-5)


def test_the_factor_multiplies_the_top_k_term_and_measures_the_same_noise():
    agent = make('dfp', trust_region=0.1).begin_online()
    params = agent.params | {'log_factor': {'params': {'log_value': jnp.float32(1.0)}}}
    _, info = loss_of(agent.replace(params=params), make_batch())
    to_best = drift('normalized', particles_of(agent), ranked(agent)[0][:, :4])
    np.testing.assert_allclose(info['actor/topk_weight'], 0.5 * np.e, rtol=1e-5)
    np.testing.assert_allclose(info['actor/topk_loss'], 0.5 * np.e * to_best, rtol=1e-4)
    assert info['actor/trust_region_loss'] == -1  # at the switch the policy is π_old


# ---- edit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('edit_all', [False, True])
def test_an_edit_comes_after_the_choice_or_before_it(edit_all):
    agent = make('dfp', edit_scale=0.3, edit_all=edit_all, num_samples=5)

    @jax.jit
    def by_definition(noise):
        draft_noise, edit_noise = jnp.split(noise, 2, axis=-1)
        edit = lambda *x: agent.edit(agent.params, OBSERVATIONS, *x)[0]  # noqa: E731
        chunks = agent.draft(agent.params, OBSERVATIONS, draft_noise)
        if edit_all:
            return agent.choose(OBSERVATIONS, edit(chunks, edit_noise))
        chosen = edit(agent.choose(OBSERVATIONS, chunks)[0], edit_noise[:, 0])
        return chosen, agent.score(OBSERVATIONS, chosen[:, None])[:, 0]

    noise = jax.random.normal(RNG, (16, 5, *agent.noise_shape))
    expected, value = by_definition(noise.reshape(16, 5, -1))
    played = agent.sample_actions(OBSERVATIONS, RNG).reshape(16, 8)
    np.testing.assert_allclose(played, expected, atol=1e-5)
    # What is exported takes the noise of the edit as well, and plays the same.
    chunk, exported = jax.jit(programs(agent)['best_of_n'].function)(OBSERVATIONS, noise)
    np.testing.assert_allclose(chunk.reshape(16, 8), expected, atol=1e-5)
    np.testing.assert_allclose(exported, value, atol=1e-5)


def test_the_policy_and_its_candidates_are_trained_without_the_edit():
    agent = make('dfp', edit_scale=0.3).begin_online()
    without = plain(agent).begin_online()
    found, expected = (
        jax.jit(jax.grad(lambda p, x=x: x.actor_loss(p, make_batch(), RNG)[0]))(x.params)
        for x in (agent, without)
    )
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(check, found['actor'], expected['actor'])
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(found['edit'])) > 0


def test_an_edit_learns_to_climb_q_from_where_the_policy_is():
    """Data at 0, a critic that likes 0.5, and edits of up to 0.3."""

    def sample(rng):
        return one_step(jnp.ones((64, 1)), 0.01 * jax.random.normal(rng, (64, 2)))

    agent = make('dfp', observation_dim=1, horizon=1, lr=5e-3, edit_scale=0.3, num_samples=4)
    agent = train_on(with_critic(agent, FixedCritic(scale=100.0)), sample, 300)
    observations = jnp.ones((500, 1))
    drafts = compiled(agent, 'propose', agent.params, jnp.ones(1), 500, RNG)
    played = agent.sample_actions(observations, RNG)[:, 0]
    assert jnp.abs(drafts).mean() < 0.25
    assert 0.2 < (played - drafts.mean(axis=0)).mean() < 0.45
