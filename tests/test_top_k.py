"""When DFP and MVP learn from their best proposals, and what π_old is then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import (
    LEARNS_FROM_CANDIDATES,
    Asked,
    compiled,
    equal,
    make,
    make_batch,
    with_critic,
)

RNG = jax.random.PRNGKey(0)
PHASES = {'offline': {'offline'}, 'online': {'online'}, 'both': {'offline', 'online'}}


@pytest.mark.parametrize('method', LEARNS_FROM_CANDIDATES)
@pytest.mark.parametrize('phases', PHASES)
def test_the_critic_is_asked_and_the_slow_copy_follows_in_the_phases_that_are_chosen(
    method, phases
):
    settings = {'top_k': 2, 'topk_phases': phases, 'ema_rate': 0.25, 'data_weight': 0.5}
    for phase in ('offline', 'online'):
        critic = Asked()
        agent = with_critic(make(method, **settings), critic)
        agent = agent.begin_online() if phase == 'online' else agent
        jax.eval_shape(agent.actor_loss, agent.params, make_batch(), RNG)
        used = phase in PHASES[phases]
        assert len(critic.shapes) == used
        assert agent.slow_copies(agent.config, agent.online)['actor'] == (0.25 if used else 0)
        assert agent.data_weight == (1 if phase == 'offline' else 0.5)


@pytest.mark.parametrize('method', [*LEARNS_FROM_CANDIDATES, 'fmq'])
def test_the_slow_copy_is_the_policy_when_either_phase_begins(method):
    agent = make(method)
    assert equal(agent.slow['actor'], agent.params['actor'])
    moved = jax.tree.map(lambda x: x + 1, agent.slow['actor'])
    agent = agent.replace(slow=agent.slow | {'actor': moved})
    assert equal(agent.begin_online().slow['actor'], agent.params['actor'])


def test_the_distance_to_the_slow_copy_is_told_where_it_follows_the_policy():
    agent, name, batch = make('dfp'), 'policy/distance_to_old', make_batch()
    assert name not in jax.eval_shape(agent.diagnose, batch, RNG)
    agent = agent.begin_online()
    assert compiled(agent, 'diagnose', batch, RNG)[name] == 0
    moved = jax.tree.map(jnp.copy, agent.params)
    moved['actor']['params']['ConcatDense_1']['bias'] += 0.1  # of each entry within the bounds
    found = compiled(agent.replace(params=moved), 'diagnose', batch, RNG)[name]
    np.testing.assert_allclose(found, 0.1, rtol=0.2)
