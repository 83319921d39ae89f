"""One update of each method, beside the same one by the code that its authors released.

`data/update_golden.npz` was made with the public code of DFP and MVP (DFP's release) and of QC and
FQL, with networks of (32, 32). Keys are `<case>/<kind>/<path>`:

    params, target_critic, old_actor, batch   what goes in
    normal, uniform                           all draws; no two of a case have as many numbers
    info, grads                               losses, and gradients as Adam sees them
    target_critic_after, old_actor_after      slow networks after the update
    chosen                                    what the agent does at the batch's observations

In `dfp_offline_partial` states whose chunk is cut short are left out of the drift loss.

Only `agent_of`, `results_of` and `update_and_play` know how agents are built.
"""

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict
from golden import assert_close, golden, hand_out
from small_agents import make

TOP_K = {'num_samples': 12, 'ema_rate': 0.02}
CASES = {
    'dfp_offline': ('dfp', TOP_K),
    'dfp_offline_partial': ('dfp', TOP_K),
    'dfp_online': ('dfp', TOP_K),
    'mvp_online_topk': ('mvp', TOP_K | {'top_k': 4}),
    'qc_bfn': ('bfn', {'flow_steps': 10}),
    'qc_fql': ('fql', {'flow_steps': 10, 'alpha': 3.0}),
    'fql': ('fql', {'flow_steps': 10, 'alpha': 3.0}),
}


FQL = {'flow': '_flow', 'actor': '_one_step'}


def as_there(params):
    """Parameters under the names of the file."""
    if 'flow' not in params:
        return params
    both = {part: params[name]['params'] for name, part in FQL.items()}
    return {'critic': params['critic'], 'actor': {'params': both}}


def agent_of(case, there):
    """The agent that the file describes, before its first update."""
    method, changes = CASES[case]
    agent = make(
        method, horizon=there['batch']['actions'].shape[1], observation_dim=11, action_dim=3,
        actor_hidden_dims=(32, 32), critic_hidden_dims=(32, 32), **changes,
    )  # fmt: skip
    if 'online' in case:
        agent = agent.begin_online()
    params = there['params']
    if method == 'fql':  # one network there, of two
        both = params.pop('actor')['params']
        params |= {name: {'params': both[part]} for name, part in FQL.items()}
    slow = {'critic': there['target_critic'], 'actor': there.get('old_actor')}
    return agent.replace(
        params=params, slow={name: slow[name] for name in agent.slow}, discount=0.99
    )


def results_of(before, after, info):
    """What the file says of an update, by its names, and the step of the parameters.

    Its slow networks move towards the parameters of before the step, ours towards those of after
    it. The difference is taken back here.
    """
    first_moment = optax.tree_utils.tree_get(after.opt_state, 'mu')
    results = {
        'grads': as_there(jax.tree.map(lambda moment: moment / 0.1, first_moment)),
        'step': as_there(jax.tree.map(np.subtract, after.params, before.params)),
        'info': unflatten_dict(info, sep='/'),
    }
    names = {'critic': 'target_critic', 'actor': 'old_actor'}
    for network, rate in after.slow_copies(after.config, after.online).items():
        results[f'{names[network]}_after'] = jax.tree.map(
            lambda x, new, old, rate=rate: x - rate * (new - old),
            after.slow[network], after.params[network], before.params[network],
        )  # fmt: skip
    return results


@jax.jit
def update_and_play(agent, batch, draws):
    """The agent after an update, what it logs, and the chunks `[B, D]` that it chose before.

    jax.random returns the case's draws, by the number of values requested.
    """
    update, sample_actions = type(agent).update.__wrapped__, type(agent).sample_actions.__wrapped__
    with pytest.MonkeyPatch.context() as patch:
        for kind, arrays in draws.items():
            patch.setattr(jax.random, kind, hand_out(arrays.values()))
        chosen = sample_actions(agent, batch['observations'], agent.rng)
        return *update(agent, batch), chosen.reshape(len(chosen), -1)


@pytest.mark.parametrize('case', CASES)
def test_an_update_is_that_of_the_authors_code(case):
    there = golden('update', case)
    agent = agent_of(case, there)
    draws = {kind: there[kind] for kind in ('normal', 'uniform') if kind in there}
    after, info, chosen = update_and_play(agent, there['batch'], draws)
    given = 'params', 'batch', 'target_critic', 'old_actor', *draws
    expected = {kind: values for kind, values in there.items() if kind not in given}
    adams_first_step = lambda grad: -agent.config.lr * grad / (np.abs(grad) + 1e-8)  # noqa: E731
    expected['step'] = jax.tree.map(adams_first_step, expected['grads'])
    assert_close(results_of(agent, after, info) | {'chosen': chosen}, expected)
