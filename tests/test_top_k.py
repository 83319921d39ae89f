"""When DFP and MVP learn from their best proposals, and what π_old is then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import LEARNS_FROM_CANDIDATES, compiled, equal, make, make_batch, with_critic

PHASES = {'offline': {'offline'}, 'online': {'online'}, 'both': {'offline', 'online'}}

every_method = pytest.mark.parametrize('method', LEARNS_FROM_CANDIDATES)
every_choice = pytest.mark.parametrize('phases', PHASES)


def in_phase(agent, phase):
    return agent.begin_online() if phase == 'online' else agent


def loss(agent):
    rng = jax.random.PRNGKey(0)
    return compiled(agent, 'actor_loss', agent.params, make_batch(), rng)[0]


class Asked:
    """A critic that counts how often a program asks it."""

    count = 0

    def apply(self, params, observations, chunks):
        self.count += 1
        return jnp.zeros((2, *chunks.shape[:-1]))


@every_method
@every_choice
def test_the_policy_asks_the_critic_in_the_phases_that_are_chosen_only(method, phases):
    for phase in ('offline', 'online'):
        agent = in_phase(make(method, top_k=2, topk_phases=phases), phase)
        critic = Asked()
        jax.eval_shape(loss, with_critic(agent, critic))
        assert critic.count == (phase in PHASES[phases])


@every_method
@every_choice
def test_the_slow_copy_follows_the_policy_in_those_phases_only(method, phases):
    for phase in ('offline', 'online'):
        agent = in_phase(make(method, top_k=2, topk_phases=phases, ema_rate=0.25), phase)
        agent = agent.replace(
            slow=agent.slow | {'actor': jax.tree.map(lambda x: x + 1, agent.slow['actor'])}
        )
        rate = 0.25 if phase in PHASES[phases] else 0.0
        new, _ = agent.update(make_batch())
        trees = (x['actor'] for x in (new.params, agent.slow, new.slow))
        for theta, old, found in zip(*map(jax.tree.leaves, trees), strict=True):
            expected = rate * theta + (1 - rate) * old
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@every_method
@every_choice
def test_the_slow_copy_is_the_policy_when_either_phase_begins(method, phases):
    agent = make(method, top_k=2, topk_phases=phases)
    assert equal(agent.slow['actor'], agent.params['actor'])
    agent = agent.replace(
        slow=agent.slow | {'actor': jax.tree.map(lambda x: x + 1, agent.slow['actor'])}
    )
    assert equal(agent.begin_online().slow['actor'], agent.params['actor'])


@every_method
def test_the_data_keeps_its_whole_weight_offline(method):
    default = make(method, top_k=2, topk_phases='both')
    light = make(method, top_k=2, topk_phases='both', data_weight=0.0)
    assert loss(light) == loss(default)
    assert loss(light.begin_online()) < loss(default.begin_online())


@every_method
def test_the_distance_to_the_slow_copy_is_told_where_it_follows_the_policy(method):
    agent = make(method, top_k=2)
    name, batch, rng = 'policy/distance_to_old', make_batch(), jax.random.PRNGKey(0)
    diagnose = jax.jit(type(agent).diagnose)
    assert name not in diagnose(agent, batch, rng)
    agent = agent.begin_online()
    assert diagnose(agent, batch, rng)[name] == 0
    moved, _ = agent.update(batch)
    first = diagnose(moved, batch, rng)[name]
    moved, _ = moved.update(batch)
    assert 0 < first < diagnose(moved, batch, rng)[name]
