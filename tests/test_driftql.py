"""DriftQL: one update beside the same one by its public code (DT6A/driftql, commit 2da54d1).

`data/driftql_golden.npz` has networks of (32, 32). Keys are `<case>/<kind>/<path>`; every normal
draw of the G particles is `draws/particles`, of one sample per state `draws/one`.
"""

import jax
import numpy as np
import optax
import pytest
from golden import assert_close, golden, hand_out
from small_agents import compiled, cut, make, make_batch

CASES = {
    'driftql': {'kernel': 'laplace', 'bandwidth': 0.5, 'alpha': 10.0, 'num_particles': 8},
    'driftql_noise_dim': {'num_particles': 4, 'noise_dim': 8},  # as on cube-double
}
SIZES = {'actor_hidden_dims': (32, 32), 'critic_hidden_dims': (32, 32)}
LOSSES = {
    'bc_drift_loss_raw': 'actor/drift_loss',
    'q_loss': 'actor/q_loss',
    'critic_loss': 'critic/loss',
}


@pytest.mark.parametrize('case', CASES)
def test_an_update_is_that_of_the_public_code(case, monkeypatch):
    there = golden('driftql', case)
    agent = make('driftql', horizon=1, observation_dim=11, action_dim=3, **SIZES, **CASES[case])
    params = {name: {'params': tree} for name, tree in there['params'].items()}
    slow = {'critic': params.pop('target_critic')}
    agent = agent.replace(params=params, slow=slow, discount=0.99)
    monkeypatch.setattr(jax.random, 'normal', hand_out(there['draws'].values()))
    size = len(there['batch']['masks'])
    batch = there['batch'] | {'valid': np.ones((size, 1), np.float32)}
    batch['actions'] = batch['actions'][:, None]
    update, act = type(agent).update.__wrapped__, type(agent).sample_actions.__wrapped__

    @jax.jit
    def run(agent, batch):
        return *update(agent, batch), act(agent, batch['observations'], agent.rng)

    after, info, chosen = run(agent, batch)
    assert_close(chosen[:, 0], there['chosen'])
    losses = there['info']['actor'] | there['info']['critic']
    assert_close({ours: info[ours] for ours in LOSSES.values()},
          {ours: losses[theirs] for theirs, ours in LOSSES.items()})  # fmt: skip
    first_moment = optax.tree_utils.tree_get(after.opt_state, 'mu')
    for name, grads in there['grads'].items():
        assert_close(jax.tree.map(lambda x: x / 0.1, first_moment[name]['params']), grads)
    tau = agent.config.tau
    follows_before = jax.tree.map(  # theirs follows the critic of before the step
        lambda slow, new, old: slow - tau * (new - old),
        *(x['critic']['params'] for x in (after.slow, after.params, params)),
    )
    assert_close(follows_before, there['after']['target_critic'])


def test_a_state_whose_chunk_is_cut_short_still_climbs_q():
    agent, batch = make('driftql', num_particles=2), cut(make_batch(), range(16), length=3)
    _, info = compiled(agent, 'actor_loss', agent.params, batch, jax.random.PRNGKey(0))
    assert info['actor/drift_loss'] == 0 != info['actor/q_loss']
