"""The loop body of both phases: sample, update, many times in one dispatch, for all seeds at once.

Agents and totals are stacked along a first axis that counts the seeds (utils/seeds.py), as are the
parts of the replay buffer that are not the shared data set.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from utils.replay import Batch, ReplayBuffer, Rows
from utils.seeds import over_seeds, place

Totals = dict[str, jax.Array]


def _update_once(agent, buffer: ReplayBuffer):
    rng, sample_rng = jax.random.split(agent.rng)
    batch = buffer.sample(sample_rng, agent.config.batch_size, agent.horizon_length, agent.discount)
    return agent.replace(rng=rng).update(batch)


def _train_one(agent, buffer: ReplayBuffer, most: jax.Array, num_updates, totals: Totals):
    """Makes `num_updates` updates of one seed in a loop of `most` rounds."""

    def body(i, carry):
        agent, totals = carry
        new, info = _update_once(agent, buffer)
        new = new, jax.tree.map(jnp.add, totals, info | {'updates': 1.0})
        if num_updates is None:
            return new
        return jax.tree.map(lambda a, b: jnp.where(i < num_updates, a, b), new, carry)

    return jax.lax.fori_loop(0, most, body, (agent, totals))


@partial(jax.jit, donate_argnames=('agents', 'totals'))
def train(agents, buffers: ReplayBuffer, num_updates, totals: Totals) -> tuple[Any, Totals]:
    """Makes updates of all seeds, each on a fresh batch, without returning to the host.

    The number is an argument of the program, not a constant of it, so that one compilation serves
    whole intervals, their remainders and the odd lengths of online chunks.

    Args:
        agents: stacked `[S, …]`; used up, like `totals`; go on with those returned.
        buffers: what to learn from.
        num_updates: 0 or more; an integer for all, or one for each seed, `[S]`. Seeds that are
            due fewer than others then wait for them.
        totals: sums of the agents' logged scalars, from `zero_totals` or an earlier call.

    Returns:
        The agents and the totals with these updates in them.
    """
    num_updates = jnp.asarray(num_updates, jnp.int32)
    each = num_updates if num_updates.ndim and num_updates.size > 1 else None
    own = None if each is None else 0
    return over_seeds(_train_one, (0, buffers.seed_axes(), None, own, 0))(
        agents, buffers, num_updates.max(), each, totals
    )


def add_transitions(buffers: ReplayBuffer, transitions: Batch) -> ReplayBuffer:
    """`buffer.add(transitions)` for each seed, in place: the online rows given are used up."""
    own = _add(buffers.replace(offline=None), buffers.offline, transitions)
    return own.replace(offline=buffers.offline)


@partial(jax.jit, donate_argnames='own')
def _add(own: ReplayBuffer, offline: Rows, transitions: Batch) -> ReplayBuffer:
    def add_one(own, offline, transitions):
        return own.replace(offline=offline).add(transitions).replace(offline=None)

    return over_seeds(add_one, (0, None, 0))(own, offline, transitions)


@jax.jit
def act(agents, observations: jax.Array, rngs: jax.Array, steps: jax.Array) -> jax.Array:
    """Returns the chunks `[S, h, d_a]` to execute.

    Args:
        agents: stacked `[S, …]`.
        observations: `[S, d_s]`.
        rngs: of each seed's exploration, `[S, 2]`.
        steps: environment steps each has taken, `[S]`.
    """

    def act_one(agent, observation, rng, step):
        return agent.sample_actions(observation, jax.random.fold_in(rng, step))

    return over_seeds(act_one, (0, 0, 0, 0))(agents, observations, rngs, steps)


def zero_totals(agents, buffers: ReplayBuffer) -> Totals:
    """Returns what `train` starts to add to."""
    infos = jax.eval_shape(_infos, agents, buffers)
    totals = {name: jnp.zeros(x.shape, x.dtype) for name, x in infos.items()}
    return place(totals | {'updates': jnp.zeros(len(agents.rng))}, 0)


@jax.jit  # for its cache of traces; it is never run
def _infos(agents, buffers: ReplayBuffer):
    return over_seeds(_update_once, (0, buffers.seed_axes()))(agents, buffers)[1]


def averages(totals: Totals) -> list[dict[str, float]]:
    """Returns each seed's mean of the logged scalars over the updates in `totals`.

    Waits for them to be made.
    """
    totals = jax.device_get(totals)
    num_updates = np.maximum(totals.pop('updates'), 1)
    return [
        {name: float(total[i] / num_updates[i]) for name, total in totals.items()}
        for i in range(len(num_updates))
    ]
