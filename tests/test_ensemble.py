"""The critic ensemble: its size, and how its members' values become one."""

import jax
import jax.numpy as jnp
import numpy as np
from small_agents import CHUNK_DIM, OBSERVATION_DIM, make

from utils.networks import MLP, Critic, _apart, _batched

OBSERVATIONS, CHUNKS = jnp.ones((6, 1, OBSERVATION_DIM)), jnp.ones((6, 5, CHUNK_DIM))


def test_values_are_lowered_by_the_disagreement_of_the_ensemble():
    agent = make('fql', q_agg='mean_std', rho=0.7)
    values = np.random.default_rng(0).normal(size=(3, 5))
    lowered = jax.jit(agent.aggregate)(values)
    np.testing.assert_allclose(lowered, values.mean(0) - 0.7 * values.std(0), rtol=1e-5)
    gradient = jax.grad(lambda values: agent.aggregate(values).sum())(jnp.ones((2, 5)))
    assert np.isfinite(gradient).all()  # also where the members agree


def test_members_are_networks_of_their_own_under_the_same_names_for_any_size():
    for num in (1, 3):
        critic = Critic((8,), num)
        params = jax.jit(critic.init)(jax.random.PRNGKey(0), OBSERVATIONS, CHUNKS)
        values = jax.jit(critic.apply)(params, OBSERVATIONS, CHUNKS)
        member = jax.jit(MLP((8,), 1, True).apply)
        assert values.shape == (num, 6, 5)
        for i in range(num):
            own = {'params': params['params'][f'member_{i}']}
            expected = member(own, OBSERVATIONS, CHUNKS)
            np.testing.assert_allclose(values[i], expected[..., 0], rtol=1e-5, atol=1e-6)
        assert len({float(value) for value in values[:, 0, 0]}) == num


def test_members_have_the_same_values_and_gradients_batched_as_apart():
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in (OBSERVATIONS, CHUNKS)]
    network = MLP((8,), 1, True)
    init = jax.jit(network.init)
    params = [init(jax.random.PRNGKey(i), *inputs) for i in range(4)]

    def outcome(function):
        values = lambda p: function(network.apply, p, *inputs)  # noqa: E731
        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(values(p))))
        return jax.jit(lambda p: (values(p), gradient(p)))(params)

    for a, b in zip(*(jax.tree.leaves(outcome(f)) for f in (_apart, _batched)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
