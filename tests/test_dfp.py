"""DFP's policy drifts as its definition says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import compiled, cut, equal, make, make_batch

from agents.drifting import mean_shift_loss, normalized_drifting_loss

either_field = pytest.mark.parametrize('field', ['normalized', 'mean_shift'])


def dfp_terms(agent, batch, seed=0):
    """The loss, and what went into it, by the definition."""
    rng = jax.random.PRNGKey(seed)
    loss, info = compiled(agent, 'actor_loss', agent.params, batch, rng)
    particle_rng, candidate_rng = jax.random.split(rng)
    config = agent.config
    observations = batch['observations']
    particles = compiled(
        agent, 'propose', agent.params, observations, config.num_particles, particle_rng
    )
    candidates = compiled(
        agent, 'propose', agent.slow, observations, config.num_candidates, candidate_rng
    )
    values = compiled(agent, 'score', observations, candidates)
    return loss, info, particles, candidates, np.asarray(values)


def drift(field, particles, *sets, widths=(0.1,), **weights):
    """The mean drifting loss over the batch, by either field; bandwidths are in units of √D."""
    if field == 'normalized':
        loss = jax.jit(normalized_drifting_loss, static_argnames='temperatures')
        return loss(particles, *sets, temperatures=widths, **weights)[0].mean()
    loss = jax.jit(mean_shift_loss, static_argnames=('bandwidths', 'kernel', 'root_d_units'))
    options = {'bandwidths': widths, 'kernel': 'laplace', 'root_d_units': True}
    return loss(particles, *sets, **options, **weights)[0]


def test_offline_loss_drifts_particles_to_the_data():
    agent, batch = make('dfp'), make_batch()
    loss, _, particles, _, _ = dfp_terms(agent, batch)
    data = batch['actions'].reshape(16, 1, -1)
    np.testing.assert_allclose(loss, drift('normalized', particles, data), rtol=1e-5)


def test_the_mean_shift_field_of_the_data_by_its_formula_and_over_full_chunks_alone():
    agent = make('dfp', data_field='mean_shift', data_bandwidths=(0.3,))
    batch = cut(make_batch(), [2, 5], length=3)
    loss, info, particles, _, _ = dfp_terms(agent, batch)
    x, y = (
        np.delete(np.float64(values), [2, 5], axis=0)
        for values in (particles, batch['actions'].reshape(16, 1, -1))
    )
    offsets = x[:, None] - x[:, :, None]  # x_j − x_i [B, i, j, D]
    kernels = np.exp(-np.sum(offsets**2, axis=-1) / (2 * 0.3**2 * x.shape[-1])) * (1 - np.eye(8))
    shares = kernels / kernels.sum(axis=-1, keepdims=True)
    field = y - x - np.sum(shares[..., None] * offsets, axis=2)
    step = np.clip(x + field, -1, 1) - x
    np.testing.assert_allclose(loss, np.mean(step**2), rtol=1e-5)
    np.testing.assert_allclose(info['actor/data_force_0.3'], np.mean(field**2), rtol=1e-5)


WIDTHS = {'temperatures': (0.1, 0.5), 'data_bandwidths': (0.2,), 'topk_bandwidths': (0.3, 0.6)}


@pytest.mark.parametrize('data_field', ['normalized', 'mean_shift'])
@pytest.mark.parametrize('topk_field', ['normalized', 'mean_shift'])
def test_online_loss_adds_half_a_drift_to_the_best_candidates_of_the_old_policy(
    data_field, topk_field
):
    fields = {'data_field': data_field, 'topk_field': topk_field, 'kernel': 'laplace'}
    agent = make('dfp', **fields, **WIDTHS).begin_online()
    old = jax.tree.map(lambda x: 0.5 * x, agent.slow['actor'])
    agent = agent.replace(slow=agent.slow | {'actor': old})
    batch = make_batch()
    loss, _, particles, candidates, values = dfp_terms(agent, batch)
    best = np.argsort(-values, axis=1)[:, :4]
    positives = np.take_along_axis(np.asarray(candidates), best[..., None], axis=1)
    data = batch['actions'].reshape(16, 1, -1)
    to_data, to_best = (
        drift(
            field,
            particles,
            x,
            widths=WIDTHS['temperatures' if field == 'normalized' else f'{term}_bandwidths'],
        )
        for term, field, x in (('data', data_field, data), ('topk', topk_field, positives))
    )
    expected = 1.0 * to_data + 0.5 * to_best
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_offline_rl_adds_the_term_from_the_first_update():
    agent = make('dfp', topk_phases='offline', top_k=8, topk_weight=0.45)
    batch = make_batch()
    loss, _, particles, candidates, values = dfp_terms(agent, batch)
    best = np.argsort(-values, axis=1)[:, :8]
    positives = np.take_along_axis(np.asarray(candidates), best[..., None], axis=1)
    data = batch['actions'].reshape(16, 1, -1)
    to_data, to_best = (drift('normalized', particles, x) for x in (data, positives))
    expected = to_data + 0.45 * to_best
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@either_field
def test_soft_weights_and_worst_candidates(field):
    agent = make(
        'dfp', soft_weights=True, num_negatives=3, data_weight=0.0, topk_weight=1.0,
        topk_field=field, topk_bandwidths=(0.1,), kernel='laplace',
    ).begin_online()  # fmt: skip
    batch = make_batch()
    loss, _, particles, candidates, values = dfp_terms(agent, batch)
    order = np.argsort(-values, axis=1)
    pick = lambda index: np.take_along_axis(np.asarray(candidates), index[..., None], 1)  # noqa: E731
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    weights = np.maximum(2 * (values - low) / np.maximum(high - low, 1e-8) - 1, 0)
    expected = drift(
        field,
        particles,
        pick(order[:, :4]),
        pick(order[:, -3:]),
        weight_positives=jnp.asarray(np.take_along_axis(weights, order[:, :4], 1)),
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@either_field
def test_a_partial_chunk_and_its_state_take_no_part_in_the_data_term(field):
    rng = jax.random.PRNGKey(0)
    agents = make('dfp', data_field=field), make('dfp', data_field=field, top_k=0).begin_online()
    for agent in agents:
        batch = cut(make_batch(), [2, 5], length=3)
        other = dict(batch)
        for i in (2, 5):
            other['actions'] = other['actions'].at[i].set(0.123)
            other['observations'] = other['observations'].at[i].set(7.0)
        grad = jax.jit(jax.grad(lambda p, b, agent=agent: agent.actor_loss(p, b, rng)[0]))
        assert equal(grad(agent.params, batch)['actor'], grad(agent.params, other)['actor'])


def test_the_top_k_and_the_q_term_use_every_state_however_short_its_chunk():
    batch = make_batch()
    short = cut(batch, [2, 5], length=3)
    for changes in ({'data_weight': 0.0, 'q_weight': 1.0}, {'num_negatives': 2}):
        agent = make('dfp', soft_weights=True, **changes).begin_online()
        infos = [dfp_terms(agent, each)[1] for each in (batch, short)]
        names = [name for name in infos[0] if name.startswith(('actor/topk', 'actor/q'))]
        assert len(names) >= 3
        for name in names:
            assert infos[0][name] == infos[1][name], name


def test_an_online_batch_of_last_states_alone_trains_the_policy_by_the_top_k_term():
    agent = make('dfp').begin_online()
    batch = cut(make_batch(), range(16), length=1)
    loss, info, particles, candidates, values = dfp_terms(agent, batch)
    best = np.argsort(-values, axis=1)[:, :4]
    positives = np.take_along_axis(np.asarray(candidates), best[..., None], axis=1)
    assert info['actor/data_loss'] == 0
    np.testing.assert_allclose(loss, 0.5 * drift('normalized', particles, positives), rtol=1e-4)
    new, _ = agent.update(batch)
    assert not equal(new.params['actor'], agent.params['actor'])


def test_saturated_coordinates_get_no_gradient():
    agent, batch, rng = make('dfp'), make_batch(), jax.random.PRNGKey(0)
    big = agent.params | {'actor': jax.tree.map(lambda x: 50.0 * x, agent.params['actor'])}
    grad = jax.jit(jax.grad(lambda p: agent.actor_loss(p, batch, rng)[0]))
    grads, small = grad(big)['actor'], grad(agent.params)['actor']
    particles = compiled(agent, 'propose', big, batch['observations'], 8, rng)
    assert (jnp.abs(particles) == 1).mean() > 0.9
    bias = lambda tree: np.abs(jax.tree.leaves(tree['params']['ConcatDense_2']['bias'])[0]).sum()  # noqa: E731
    assert bias(grads) < 0.3 * bias(small)


def test_old_policy_is_the_policy_when_the_online_phase_begins_and_then_follows_slowly():
    agent, batch = make('dfp', ema_rate=0.25), make_batch()
    for _ in range(3):
        agent, _ = agent.update(batch)
    assert not equal(agent.slow['actor'], agent.params['actor'])
    agent = agent.begin_online()
    assert equal(agent.slow['actor'], agent.params['actor'])
    new, _ = agent.update(batch)
    expected = jax.tree.map(
        lambda theta, old: 0.25 * theta + 0.75 * old, new.params['actor'], agent.slow['actor']
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
                 new.slow['actor'], expected)  # fmt: skip


def test_minus_q_term():
    agent = make('dfp', q_weight=2.0).begin_online()
    without = make('dfp').begin_online()
    batch = make_batch()
    loss, _, particles, _, _ = dfp_terms(agent, batch)
    base, *_ = dfp_terms(without, batch)
    value = jax.jit(agent.modules['critic'].apply)
    values = value(agent.params['critic'], batch['observations'][:, None], particles)
    np.testing.assert_allclose(loss, base - 2.0 * values.mean(), rtol=1e-4)
