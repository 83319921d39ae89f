"""FQL's one-step policy: between its flow and the critic."""

import jax
import jax.numpy as jnp
import numpy as np
from small_agents import FixedCritic, compiled, make, make_batch, one_step, train_on, with_critic

from utils.flows import integrate


@jax.jit
def outputs(agent, params, observations, noise):
    """Chunks of the one-step policy and of the flow, from the same noise."""
    velocity = agent.network('flow', params, observations)
    flow = integrate(velocity, noise, agent.config.flow_steps)
    return agent.network('actor', params, observations)(noise), flow


def test_the_loss_is_flow_matching_distillation_and_minus_q():
    agent, batch = make('fql', alpha=7.0, q_agg='min'), make_batch()
    rng = jax.random.PRNGKey(0)
    loss, info = compiled(agent, 'actor_loss', agent.params, batch, rng)
    noise = jax.random.normal(jax.random.split(rng)[1], (16, agent.spec.chunk_dim))
    observations = batch['observations']
    actions, flow = outputs(agent, agent.params, observations, noise)
    distillation = jnp.mean((actions - jnp.clip(flow, -1, 1)) ** 2)
    value = jax.jit(agent.modules['critic'].apply)
    values = value(agent.params['critic'], observations, jnp.clip(actions, -1, 1))
    expected = info['actor/flow_loss'] + 7.0 * distillation - values.mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    normalised = make('fql', alpha=7.0, normalize_q_loss=True)
    loss, _ = compiled(normalised, 'actor_loss', normalised.params, batch, rng)
    expected += values.mean() - values.mean() / jnp.abs(values.mean(0)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_distillation_and_q_do_not_move_the_flow():
    batch, rng = make_batch(), jax.random.PRNGKey(0)
    grads = []
    for alpha, best in ((0.0, 0.5), (100.0, -0.5)):
        agent = with_critic(make('fql', alpha=alpha), FixedCritic(best=best))
        grad = jax.jit(jax.grad(lambda p, agent=agent: agent.actor_loss(p, batch, rng)[0]))
        grads.append(grad(agent.params))
    jax.tree.map(np.testing.assert_array_equal, grads[0]['flow'], grads[1]['flow'])
    differences = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), grads[0]['actor'], grads[1]['actor']
    )
    assert min(jax.tree.leaves(differences)) > 0


def test_with_a_large_alpha_the_policy_is_the_flow_and_with_a_small_one_the_critics_best():
    """The critic's best action is far from both modes of the data."""

    def sample(rng):
        mode_rng, width_rng = jax.random.split(rng)
        modes = jnp.where(jax.random.bernoulli(mode_rng, shape=(128, 1)), 0.6, -0.6)
        actions = modes + 0.05 * jax.random.normal(width_rng, (128, 1))
        return one_step(jnp.ones((128, 1)), actions)

    observations = jnp.ones((500, 1))
    noise = jax.random.normal(jax.random.PRNGKey(1), (500, 1))
    to_flow, to_best = {}, {}
    for alpha in (1e4, 1e-2):
        agent = make(
            'fql', observation_dim=1, action_dim=1, horizon=1, alpha=alpha, flow_steps=10, lr=6e-3
        )
        agent = with_critic(agent, FixedCritic(best=0.0))
        agent = train_on(agent, sample, 800, average=200)
        actions, flow = outputs(agent, agent.params, observations, noise)
        to_flow[alpha] = float(jnp.abs(actions - jnp.clip(flow, -1, 1)).mean())
        to_best[alpha] = float(jnp.abs(actions).mean())
    assert to_flow[1e4] < 0.12  # of 1.2 between the modes
    assert to_best[1e4] > 0.4
    assert to_best[1e-2] < 0.06
