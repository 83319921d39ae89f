"""The critic ensemble: its size, and how its members' values become one."""

import jax
import jax.numpy as jnp
import numpy as np
from small_agents import CHUNK_DIM, OBSERVATION_DIM, compiled, make, make_batch

from utils.networks import MLP, Critic, _apart, _batched

OBSERVATIONS, CHUNKS = jnp.ones((6, 1, OBSERVATION_DIM)), jnp.ones((6, 5, CHUNK_DIM))


def mean_std(values, rho):
    values = np.asarray(values)
    return values.mean(0) - rho * values.std(0)


def test_targets_are_lowered_by_the_disagreement_of_the_ensemble():
    agent = make('dfp', num_qs=3, q_agg='mean_std', rho=0.7)
    batch, rng = make_batch(), jax.random.PRNGKey(1)
    chunks = compiled(agent, 'best_of_n', batch['next_observations'], rng)
    value = jax.jit(agent.modules['critic'].apply)
    values = value(agent.slow['critic'], batch['next_observations'], chunks)
    assert values.shape == (3, 16)
    expected = batch['rewards'] + 0.9**4 * batch['masks'] * mean_std(values, 0.7)
    targets = compiled(agent, 'td_targets', batch, rng)
    np.testing.assert_allclose(targets, expected, rtol=1e-5)


def test_candidates_are_valued_in_the_same_way():
    agent = make('dfp', num_qs=3, q_agg='mean_std', rho=5.0).begin_online()
    observations, value = make_batch()['observations'], jax.jit(agent.modules['critic'].apply)
    chunks, values = compiled(agent, 'ranked_candidates', observations, jax.random.PRNGKey(1))
    each = value(agent.params['critic'], observations[:, None], chunks)
    np.testing.assert_allclose(values, mean_std(each, 5.0), rtol=1e-4, atol=1e-5)


def test_members_that_agree_have_a_finite_gradient():
    agent = make('fql', q_agg='mean_std')
    gradient = jax.grad(lambda values: agent.aggregate(values).sum())(jnp.ones((2, 5)))
    assert np.isfinite(gradient).all()


def test_members_are_networks_of_their_own_under_the_same_names_for_any_size():
    for num in (1, 2, 4):
        critic = Critic((8, 8), num)
        params = jax.jit(critic.init)(jax.random.PRNGKey(0), OBSERVATIONS, CHUNKS)
        values = jax.jit(critic.apply)(params, OBSERVATIONS, CHUNKS)
        member = jax.jit(MLP((8, 8), 1, True).apply)
        assert values.shape == (num, 6, 5)
        for i in range(num):
            own = {'params': params['params'][f'member_{i}']}
            expected = member(own, OBSERVATIONS, CHUNKS)
            np.testing.assert_allclose(values[i], expected[..., 0], rtol=1e-5, atol=1e-6)
        assert len({float(value) for value in values[:, 0, 0]}) == num


def test_members_have_the_same_values_and_gradients_batched_as_apart():
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in (OBSERVATIONS, CHUNKS)]
    network = MLP((8, 8), 1, True)
    init = jax.jit(network.init)
    params = [init(jax.random.PRNGKey(i), *inputs) for i in range(4)]

    def outcome(function):
        values = lambda p: function(network.apply, p, *inputs)  # noqa: E731
        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(values(p))))
        return jax.jit(lambda p: (values(p), gradient(p)))(params)

    for a, b in zip(*(jax.tree.leaves(outcome(f)) for f in (_apart, _batched)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
