"""What every agent promises, and what DFP adds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import dfp, make_agent
from agents.base import freeze
from utils.drifting import normalized_drifting_loss

OBSERVATION_DIM, ACTION_DIM, HORIZON = 3, 2, 4
CHUNK_DIM = HORIZON * ACTION_DIM


def make(seed=0, horizon=HORIZON, **changes):
    config = dfp.get_config()
    config.update(actor_hidden_dims=(32, 32), critic_hidden_dims=(32, 32), batch_size=16, **changes)
    return dfp.DFPAgent.create(seed, OBSERVATION_DIM, ACTION_DIM, config, horizon, 0.9)


def make_batch(seed=0, size=16, horizon=HORIZON):
    rng = np.random.default_rng(seed)
    batch = {
        'observations': rng.normal(size=(size, OBSERVATION_DIM)),
        'actions': rng.uniform(-1, 1, (size, horizon, ACTION_DIM)),
        'rewards': rng.normal(size=size),
        'masks': (rng.uniform(size=size) < 0.8).astype(float),
        'next_observations': rng.normal(size=(size, OBSERVATION_DIM)),
        'valid': np.ones((size, horizon)),
    }
    return {k: jnp.asarray(v, jnp.float32) for k, v in batch.items()}


def cut(batch, states, length):
    """Lets the chunks of some states end after `length` steps."""
    return batch | {'valid': batch['valid'].at[jnp.asarray(states), length:].set(0)}


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


# ---- the shared agent -------------------------------------------------------------------------


@pytest.mark.parametrize('leading', [(), (5,), (2, 3)])
def test_actions_have_the_shape_of_a_chunk_for_any_leading_shape(leading):
    observations = jnp.ones((*leading, OBSERVATION_DIM))
    actions = make().sample_actions(observations, jax.random.PRNGKey(0))
    assert actions.shape == (*leading, HORIZON, ACTION_DIM)
    assert (jnp.abs(actions) <= 1).all()


@pytest.mark.parametrize('q_agg', ['mean', 'min'])
def test_acting_picks_the_best_of_the_proposals(q_agg):
    agent = make(q_agg=q_agg, num_samples=7)
    agent = agent.replace(target_critic=jax.tree.map(jnp.negative, agent.target_critic))
    observations = make_batch()['observations']
    rng = jax.random.PRNGKey(3)
    proposals = agent.propose(agent.params['actor'], observations, 7, rng)
    values = np.stack(
        [
            agent.critic.apply(agent.params['critic'], observations, proposals[:, i])
            for i in range(7)
        ],
        axis=-1,
    )
    values = values.mean(0) if q_agg == 'mean' else values.min(0)
    expected = proposals[np.arange(16), values.argmax(-1)]
    actions = agent.sample_actions(observations, rng).reshape(16, -1)
    np.testing.assert_allclose(actions, expected, atol=1e-6)


def test_one_proposal_is_plain_sampling_and_asks_no_critic():
    agent = make(num_samples=1)
    observations = jnp.ones((5, OBSERVATION_DIM))
    rng = jax.random.PRNGKey(0)
    proposal = agent.propose(agent.params['actor'], observations, 1, rng)[:, 0]
    blind = agent.replace(params=agent.params | {'critic': None})
    actions = blind.sample_actions(observations, rng)
    np.testing.assert_allclose(actions.reshape(5, -1), proposal, atol=1e-6)


def test_td_target_is_the_discounted_target_value_of_what_the_agent_would_do():
    agent = make()
    agent = agent.replace(target_critic=jax.tree.map(lambda x: x + 0.1, agent.target_critic))
    batch, rng = make_batch(), jax.random.PRNGKey(1)
    chunks = agent.act(batch['next_observations'], rng)
    values = agent.critic.apply(agent.target_critic, batch['next_observations'], chunks).mean(0)
    expected = batch['rewards'] + 0.9**HORIZON * batch['masks'] * values
    np.testing.assert_allclose(agent.td_targets(batch, rng), expected, rtol=1e-5)


def test_critic_learns_from_full_chunks_only_in_a_mean_over_the_whole_batch():
    agent = make()
    batch, targets = make_batch(), jnp.arange(16.0)
    values = agent.critic.apply(
        agent.params['critic'], batch['observations'], batch['actions'].reshape(16, -1)
    )
    errors = ((values - targets) ** 2).mean(0)
    batch = cut(batch, [0, 3], length=3)
    loss, _ = agent.critic_loss(agent.params['critic'], batch, targets)
    np.testing.assert_allclose(loss, (errors.sum() - errors[0] - errors[3]) / 16, rtol=1e-5)


def test_critic_loss_does_not_move_the_actor_nor_the_actor_loss_the_critic():
    agent, batch = make(q_weight=1.0).begin_online(), make_batch()
    rng = jax.random.PRNGKey(0)

    def losses(params, rng):
        critic, _ = agent.critic_loss(params['critic'], batch, agent.td_targets(batch, rng))
        actor, _ = agent.actor_loss(params['actor'], batch, rng)
        return critic, actor

    def norms(index):
        grads = jax.grad(lambda p: losses(p, rng)[index])(agent.params)
        return {k: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(grads[k])) for k in grads}

    assert norms(0)['actor'] == 0 < norms(0)['critic']
    assert norms(1)['critic'] == 0 < norms(1)['actor']


def test_target_critic_follows_the_critic_after_its_step():
    agent = make(tau=0.3)
    new, _ = agent.update(make_batch())
    expected = jax.tree.map(
        lambda q, target: 0.3 * q + 0.7 * target, new.params['critic'], agent.target_critic
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
                 new.target_critic, expected)  # fmt: skip


def test_only_trained_parameters_have_optimiser_state():
    agent = make()
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(agent.opt_state) == 2 * count(agent.params) + 1


def test_updates_are_pure_and_reproducible():
    agent, batch = make(), make_batch()
    before = jax.tree.map(jnp.copy, agent)
    first, second = agent.update(batch)[0], agent.update(batch)[0]
    assert equal(agent, before)
    assert equal(first, second)
    assert not equal(first.params, agent.params)
    assert not equal(first.rng, agent.rng)


def test_agents_train_side_by_side_under_vmap():
    batch = make_batch()
    pair = [make(seed=0), make(seed=1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    together, _ = jax.vmap(lambda agent: agent.update(batch))(stacked)
    for i, agent in enumerate(pair):
        alone, _ = agent.update(batch)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
            together.params,
            alone.params,
        )


@pytest.mark.parametrize('chunking', [True, False])
def test_without_action_chunking_the_horizon_is_only_that_of_the_returns(chunking):
    agent = make(action_chunking=chunking)
    actions = agent.sample_actions(jnp.ones(OBSERVATION_DIM), jax.random.PRNGKey(0))
    assert actions.shape == ((HORIZON if chunking else 1), ACTION_DIM)
    batch = make_batch()
    other = batch | {'actions': batch['actions'].at[:, 1:].add(0.1)}
    same = equal(agent.update(batch)[0].params, agent.update(other)[0].params)
    assert same is not chunking


@pytest.mark.parametrize('horizon', [1, 5])
def test_critic_learns_the_values_of_a_chain_it_can_compute_by_hand(horizon):
    """States 0…9, each action moves one on with reward −1, the tenth ends it: Q = −Σ γ^k."""
    config = dfp.get_config()
    config.update(
        actor_hidden_dims=(32,), critic_hidden_dims=(64, 64), num_samples=2, lr=3e-3, tau=0.05
    )
    agent = dfp.DFPAgent.create(0, 10, 1, config, horizon, 0.9)
    rng = np.random.default_rng(0)

    def batch():
        state = rng.integers(0, 10, 64)
        steps = np.minimum(horizon, 10 - state)
        following = np.minimum(state + steps, 9)
        return {
            'observations': jnp.eye(10)[state],
            'actions': jnp.asarray(rng.uniform(-1, 1, (64, horizon, 1)), jnp.float32),
            'rewards': jnp.asarray(-(1 - 0.9**steps) / (1 - 0.9), jnp.float32),
            'masks': jnp.asarray(state + steps < 10, jnp.float32),
            'next_observations': jnp.eye(10)[following],
            'valid': jnp.ones((64, horizon)),
        }

    for _ in range(600):
        agent, _ = agent.update(batch())
    actions = jnp.zeros((10, horizon))
    values = agent.critic.apply(agent.params['critic'], jnp.eye(10), actions).mean(0)
    expected = -(1 - 0.9 ** np.arange(10, 0, -1)) / (1 - 0.9)
    np.testing.assert_allclose(values, expected, atol=0.35)


# ---- DFP ----------------------------------------------------------------------------------------


def dfp_terms(agent, batch, seed=0):
    """The loss, and what went into it, by the definition."""
    rng = jax.random.PRNGKey(seed)
    loss, info = agent.actor_loss(agent.params['actor'], batch, rng)
    particle_rng, candidate_rng = jax.random.split(rng)
    config = agent.config
    particles = agent.propose(
        agent.params['actor'], batch['observations'], config.num_particles, particle_rng
    )
    candidates = agent.propose(
        agent.old_actor, batch['observations'], config.num_candidates, candidate_rng
    )
    values = agent.score(batch['observations'], candidates)
    return loss, info, particles, candidates, np.asarray(values)


def test_offline_loss_drifts_particles_to_the_data():
    agent, batch = make(), make_batch()
    loss, _, particles, _, _ = dfp_terms(agent, batch)
    data = batch['actions'].reshape(16, 1, -1)
    expected, _ = normalized_drifting_loss(particles, data, temperatures=(0.1,))
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def test_online_loss_adds_half_a_drift_to_the_best_candidates_of_the_old_policy():
    agent = make(temperatures=(0.1, 0.5)).begin_online()
    agent = agent.replace(old_actor=jax.tree.map(lambda x: 0.5 * x, agent.old_actor))
    batch = make_batch()
    loss, _, particles, candidates, values = dfp_terms(agent, batch)
    best = np.argsort(-values, axis=1)[:, :4]
    positives = np.take_along_axis(np.asarray(candidates), best[..., None], axis=1)
    drift = partial(normalized_drifting_loss, particles, temperatures=(0.1, 0.5))
    data = batch['actions'].reshape(16, 1, -1)
    expected = 1.0 * drift(data)[0].mean() + 0.5 * drift(positives)[0].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_soft_weights_and_worst_candidates():
    agent = make(soft_weights=True, num_negatives=3, data_weight=0.0, topk_weight=1.0)
    agent = agent.begin_online()
    batch = make_batch()
    loss, _, particles, candidates, values = dfp_terms(agent, batch)
    order = np.argsort(-values, axis=1)
    pick = lambda index: np.take_along_axis(np.asarray(candidates), index[..., None], 1)  # noqa: E731
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    weights = np.maximum(2 * (values - low) / np.maximum(high - low, 1e-8) - 1, 0)
    expected, _ = normalized_drifting_loss(
        particles,
        pick(order[:, :4]),
        pick(order[:, -3:]),
        temperatures=(0.1,),
        weight_positives=jnp.asarray(np.take_along_axis(weights, order[:, :4], 1)),
    )
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4)


def test_a_partial_chunk_and_its_state_take_no_part_in_the_drift():
    rng = jax.random.PRNGKey(0)
    for agent in (make(), make().begin_online()):
        batch = cut(make_batch(), [2, 5], length=3)
        other = dict(batch)
        for i in (2, 5):
            other['actions'] = other['actions'].at[i].set(0.123)
            other['observations'] = other['observations'].at[i].set(7.0)
        grad = jax.grad(lambda p, b, agent=agent: agent.actor_loss(p, b, rng)[0])
        assert equal(grad(agent.params['actor'], batch), grad(agent.params['actor'], other))


def test_saturated_coordinates_get_no_gradient():
    agent = make()
    big = jax.tree.map(lambda x: 50.0 * x, agent.params['actor'])
    grads = jax.grad(lambda p: agent.actor_loss(p, make_batch(), jax.random.PRNGKey(0))[0])(big)
    particles = agent.propose(big, make_batch()['observations'], 8, jax.random.PRNGKey(0))
    assert (jnp.abs(particles) == 1).mean() > 0.9
    small = jax.grad(lambda p: agent.actor_loss(p, make_batch(), jax.random.PRNGKey(0))[0])(
        agent.params['actor']
    )
    bias = lambda tree: np.abs(jax.tree.leaves(tree['params']['ConcatDense_2']['bias'])[0]).sum()  # noqa: E731
    assert bias(grads) < 0.3 * bias(small)


def test_old_policy_is_the_policy_when_the_online_phase_begins_and_then_follows_slowly():
    agent, batch = make(ema_rate=0.25), make_batch()
    for _ in range(3):
        agent, _ = agent.update(batch)
    assert not equal(agent.old_actor, agent.params['actor'])
    agent = agent.begin_online()
    assert equal(agent.old_actor, agent.params['actor'])
    new, _ = agent.update(batch)
    expected = jax.tree.map(
        lambda theta, old: 0.25 * theta + 0.75 * old, new.params['actor'], agent.old_actor
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
                 new.old_actor, expected)  # fmt: skip


def test_minus_q_term():
    agent = make(q_weight=2.0).begin_online()
    without = make().begin_online()
    batch = make_batch()
    loss, _, particles, _, _ = dfp_terms(agent, batch)
    base, *_ = dfp_terms(without, batch)
    values = agent.critic.apply(
        agent.params['critic'], batch['observations'][:, None], particles
    ).mean()
    np.testing.assert_allclose(loss, base - 2.0 * values, rtol=1e-4)


def flops(agent, batch):
    return jax.jit(type(agent).update).lower(agent, batch).compile().cost_analysis()['flops']


def test_terms_of_weight_zero_cost_nothing():
    batch = make_batch()
    offline = flops(make(), batch)
    online = flops(make().begin_online(), batch)
    without_topk = flops(make(topk_weight=0.0).begin_online(), batch)
    with_q = flops(make(q_weight=1.0).begin_online(), batch)
    assert without_topk == pytest.approx(offline, rel=0.01)
    assert online > 1.3 * offline
    assert with_q > 1.1 * online


def test_particles_move_to_what_the_critic_prefers():
    """A fixed critic that likes the action (0.5, …, 0.5): online updates take the policy there."""
    agent = make(lr=1e-3, ema_rate=0.05, top_k=2)
    observations = jnp.ones((64, OBSERVATION_DIM))
    goal = 0.5

    class Fixed:
        def apply(self, params, observations, chunks):
            del params, observations
            value = -jnp.sum((chunks - goal) ** 2, axis=-1)
            return jnp.stack([value, value])

    rng = np.random.default_rng(0)
    agent = agent.begin_online()
    step = jax.jit(
        lambda agent, batch, key: jax.grad(
            lambda p: agent.replace(critic=Fixed()).actor_loss(p, batch, key)[0]
        )(agent.params['actor'])
    )
    import optax

    optimiser = optax.adam(1e-3)
    state = optimiser.init(agent.params['actor'])

    def distance(agent):
        chunks = agent.propose(agent.params['actor'], observations, 8, jax.random.PRNGKey(9))
        return float(jnp.abs(chunks - goal).mean())

    before = distance(agent)
    for i in range(300):
        batch = make_batch(seed=i, size=64) | {'observations': observations}
        batch['actions'] = jnp.asarray(rng.uniform(-1, 1, (64, HORIZON, ACTION_DIM)), jnp.float32)
        updates, state = optimiser.update(step(agent, batch, jax.random.PRNGKey(i)), state)
        actor = optax.apply_updates(agent.params['actor'], updates)
        agent = agent.replace(params=agent.params | {'actor': actor}).after_update()
    assert distance(agent) < before - 0.05


# ---- settings that cannot work ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'top_k': 17}, r'--agent.top_k=17: must be from 0 to --agent.num_candidates=16'),
        ({'top_k': -1}, r'--agent.top_k=-1'),
        ({'num_negatives': 13}, r'--agent.num_negatives=13: must be from 0 to .* = 12'),
        ({'temperatures': ()}, r'--agent.temperatures=\(\): needs at least one'),
        ({'temperatures': (0.1, -1.0)}, r'--agent.temperatures=.*above 0'),
        ({'num_particles': 0}, r'--agent.num_particles=0: must be at least 1'),
        ({'num_samples': 0}, r'--agent.num_samples=0: must be at least 1'),
        ({'q_agg': 'median'}, r"--agent.q_agg=median: use 'mean' or 'min'"),
        ({'topk_weight': -1.0}, r'--agent.topk_weight=-1.0: must not be negative'),
        ({'ema_rate': 0.0}, r'--agent.ema_rate=0.0'),
        ({'tau': 2.0}, r'--agent.tau=2.0: must be in \(0, 1\]'),
        ({'horizon': 0}, r'--horizon_length=0: must be at least 1'),
    ],
)
def test_settings_that_cannot_work_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_an_unknown_agent_is_named_with_those_there_are():
    description = {'agent': {'agent_name': 'sac'}}
    with pytest.raises(ValueError, match='agent_name=sac: unknown; there are bfn, dfp, fql, mvp'):
        make_agent(description, seed=0)


def test_frozen_settings_compare_by_value():
    assert freeze(dfp.get_config()) == freeze(dfp.get_config())
    assert hash(freeze(dfp.get_config())) == hash(freeze(dfp.get_config()))
