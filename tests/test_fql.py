"""FQL's loss where the paper's Q term is normalised; tests/test_golden_updates.py has the rest."""

import jax
import jax.numpy as jnp
import numpy as np
from small_agents import compiled, make, make_batch


def test_the_q_term_is_the_ensembles_mean_and_may_be_measured_in_mean_absolute_values():
    agent = make('fql', alpha=7.0, normalize_q_loss=True, q_agg='min')
    batch, rng = make_batch(), jax.random.PRNGKey(0)
    loss, info = compiled(agent, 'actor_loss', agent.params, batch, rng)
    noise = jax.random.normal(jax.random.split(rng)[1], (16, agent.spec.chunk_dim))
    act = jax.jit(agent.modules['actor'].apply)
    actions = jnp.clip(act(agent.params['actor'], batch['observations'], noise), -1, 1)
    values = jax.jit(agent.modules['critic'].apply)(
        agent.params['critic'], batch['observations'], actions
    ).mean(0)
    expected = info['actor/flow_loss'] + 7.0 * info['actor/distillation_loss']
    expected -= values.mean() / jnp.abs(values).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
