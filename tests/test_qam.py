"""QAM, QAM-E and QAM-F: one update beside their authors' code, and what is known in closed form.

`data/qam_golden.npz` was made with the public code of QAM (commit f93efd2), with networks of
(32, 32). Keys are `<case>/<kind>/<path>`: params and batch go in; grads (clipped), after (slow
networks), chosen, adjoint and info come out. Every normal draw of one chunk per state is
`draws/chunk`, that of the edit `draws/edit` (in column order), the flow's times `draws/time`.
"""

import jax
import numpy as np
import optax
import pytest
from golden import assert_close, golden, hand_out
from small_agents import compiled, make, make_batch, with_critic

from utils import networks

CASES = {
    'qam': {'inv_temp': 3.0},
    'qam_edit': {'inv_temp': 3.0, 'edit_scale': 0.1},
    'qam_fql': {'inv_temp': 1.0, 'alpha': 30.0},
}
NAMES = {
    'actor_fast': 'fast', 'actor_slow': 'slow', 'edit_actor': 'edit', 'edit_alpha': 'log_alpha',
    'one_step_actor': 'one_step', 'critic': 'critic',
}  # fmt: skip
LOSSES = {
    'actor/flow_loss': 'actor/flow_loss', 'actor/fast_loss': 'actor/adjoint_loss',
    'actor/edit_q_loss': 'actor/edit_q_loss', 'actor/edit_entropy': 'actor/edit_entropy',
    'actor/edit_alpha': 'actor/edit_alpha', 'actor/fql_q_loss': 'actor/q_loss',
    'critic/critic_loss': 'critic/loss', 'actor/fql_distill_loss': 'actor/distillation_loss',
}  # fmt: skip


class Jitted:
    """A network that is traced once, however often a program calls it."""

    def __init__(self, module):
        self.apply = jax.jit(module.apply)


def networks_of(tree, prefix=''):
    """The parameters of a golden tree under our names."""
    return {
        ours: {'params': tree[prefix + theirs]}
        for theirs, ours in NAMES.items()
        if prefix + theirs in tree
    }


def agent_of(case, params):
    sizes = {'horizon': 5, 'observation_dim': 11, 'action_dim': 3, 'flow_steps': 10, 'num_qs': 10}
    sizes |= {'actor_hidden_dims': (32, 32), 'critic_hidden_dims': (32, 32)}
    agent = make('qam', **sizes, **CASES[case])
    modules = agent.modules.copy({name: Jitted(module) for name, module in agent.modules.items()})
    slow = networks_of(params, 'target_')
    return agent.replace(modules=modules, params=networks_of(params), slow=slow, discount=0.99)


def hand_out_draws(draws, monkeypatch):
    chunk, edit = draws['chunk'], draws['edit'].reshape(15, 6).T  # stored entry by entry
    both = np.concatenate([chunk, edit], axis=-1)
    monkeypatch.setattr(jax.random, 'normal', hand_out([chunk, both]))
    monkeypatch.setattr(jax.random, 'uniform', hand_out([draws['time']]))


@pytest.mark.parametrize(
    'case',
    ['qam_fql', *(pytest.param(name, marks=pytest.mark.slow) for name in ('qam', 'qam_edit'))],
)
def test_an_update_is_that_of_the_authors_code(case, monkeypatch):
    there = golden('qam', case)
    agent, batch = agent_of(case, there['params']), there['batch']
    hand_out_draws(there['draws'], monkeypatch)
    # Ten critics compile much faster as one; tests/test_ensemble.py shows that they are the same.
    monkeypatch.setattr(networks, '_apart', networks._batched)

    @jax.jit
    def run(agent, batch):
        chosen = agent.best_of_n(batch['observations'], agent.rng)
        return *type(agent).update.__wrapped__(agent, batch), chosen

    after, info, chosen = run(agent, batch)
    assert_close(chosen, there['chosen'])
    for theirs, ours in LOSSES.items():
        part, name = theirs.split('/')
        if name in there['info'][part]:
            assert_close(info[ours], there['info'][part][name])
    grads = jax.tree.map(lambda x: x / 0.1, optax.tree_utils.tree_get(after.opt_state, 'mu'))
    assert_close(grads, networks_of(there['grads']))
    tau, slow = agent.config.tau, networks_of(there['after'], 'target_')
    found = jax.tree.map(  # theirs follow those before the step
        lambda slow, new, before: slow - tau * (new - before),
        *({name: x[name] for name in slow} for x in (after.slow, after.params, agent.params)),
    )
    assert_close(found, slow)


class Linear:
    """A critic that values a chunk by `c · chunk`."""

    def apply(self, params, observations, chunks):
        return (chunks @ C)[None]


class LinearVelocity:
    """v(x, t) = A x."""

    def apply(self, params, observations, x, t):
        return A * x


C, A = np.linspace(-0.2, 0.3, 8).astype(np.float32), 0.7


def test_adjoints_of_a_linear_clone_and_critic_have_a_closed_form():
    steps, step = 4, 1 / 4
    agent = with_critic(make('qam', flow_steps=steps, inv_temp=2.0), Linear())
    agent = agent.replace(modules=agent.modules.copy({'slow': LinearVelocity()}))
    rng = jax.random.PRNGKey(0)
    path, adjoints = compiled(agent, 'adjoints', make_batch()['observations'], rng)
    last = path[:, -1] * (1 + step * A)
    adjoint = np.where(np.abs(last) < 1, -2.0 * C, 0)  # no pull where an entry is saturated
    for i in reversed(range(steps)):
        adjoint = adjoint * (1 + step * (2 * A - 1 / ((i + 1) * step)))
        np.testing.assert_allclose(adjoints[:, i], adjoint, rtol=1e-4, atol=1e-6)
