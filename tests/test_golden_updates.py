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

import pathlib

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from small_agents import make

GOLDEN = np.load(pathlib.Path(__file__).parent / 'data' / 'update_golden.npz')
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


def golden(case, *kinds):
    """The arrays of these kinds as one nested dict."""
    paths = (tuple(key.split('/')) for key in GOLDEN if key.startswith(f'{case}/'))
    return unflatten_dict({path[1:]: GOLDEN['/'.join(path)] for path in paths if path[1] in kinds})


FQL = {'flow': '_flow', 'actor': '_one_step'}


def as_there(params):
    """Parameters under the names of the file."""
    if 'flow' not in params:
        return params
    both = {part: params[name]['params'] for name, part in FQL.items()}
    return {'critic': params['critic'], 'actor': {'params': both}}


def agent_of(case):
    """The agent that the file describes, before its first update."""
    method, changes = CASES[case]
    horizon = GOLDEN[f'{case}/batch/actions'].shape[1]
    agent = make(
        method, horizon=horizon, observation_dim=11, action_dim=3, actor_hidden_dims=(32, 32),
        critic_hidden_dims=(32, 32), **changes,
    )  # fmt: skip
    if 'online' in case:
        agent = agent.begin_online()
    found = golden(case, 'params', 'target_critic', 'old_actor')
    if agent.config.agent_name == 'fql':  # one network there, of two
        both = found['params'].pop('actor')['params']
        found['params'] |= {name: {'params': both[part]} for name, part in FQL.items()}
    slow = {'critic': found['target_critic'], 'actor': found.get('old_actor')}
    return agent.replace(
        params=found['params'], slow={name: slow[name] for name in agent.slow}, discount=0.99
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
            of_size = {x.size: x for x in arrays.values()}
            hand_out = lambda _, shape, x=of_size: x[np.prod(shape)].reshape(shape)  # noqa: E731
            patch.setattr(jax.random, kind, hand_out)
        chosen = sample_actions(agent, batch['observations'], agent.rng)
        return *update(agent, batch), chosen.reshape(len(chosen), -1)


@pytest.mark.parametrize('case', CASES)
def test_an_update_is_that_of_the_authors_code(case):
    agent, batch = agent_of(case), golden(case, 'batch')['batch']
    after, info, chosen = update_and_play(agent, batch, golden(case, 'normal', 'uniform'))
    results = flatten_dict(results_of(agent, after, info) | {'chosen': chosen})
    expected = golden(case, 'grads', 'info', 'target_critic_after', 'old_actor_after', 'chosen')
    adams_first_step = lambda grad: -agent.config.lr * grad / (np.abs(grad) + 1e-8)  # noqa: E731
    expected['step'] = jax.tree.map(adams_first_step, expected['grads'])
    for path, value in flatten_dict(expected).items():
        error = np.linalg.norm(results[path] - value) / np.linalg.norm(value)
        assert error < 1e-3, '/'.join(path)
