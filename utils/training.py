"""The loop body of both phases: sample, update, many times in one dispatch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from utils.replay import Batch, ReplayBuffer

Totals = dict[str, jax.Array]


def _update_once(agent, buffer: ReplayBuffer):
    rng, sample_rng = jax.random.split(agent.rng)
    batch = buffer.sample(sample_rng, agent.config.batch_size, agent.horizon_length, agent.discount)
    return agent.replace(rng=rng).update(batch)


@partial(jax.jit, donate_argnames=('agent', 'totals'))
def train(agent, buffer: ReplayBuffer, num_updates: int, totals: Totals) -> tuple[Any, Totals]:
    """Makes `num_updates` updates, each on a fresh batch, without returning to the host.

    The number is an argument of the program, not a constant of it, so that one compilation serves
    whole intervals, their remainders and the odd lengths of online chunks.

    Args:
        agent: used up, like `totals`; go on with those returned.
        buffer: what to learn from.
        num_updates: 0 or more.
        totals: sums of the agent's logged scalars, from `zero_totals` or an earlier call.

    Returns:
        The agent and the totals with these updates in them.
    """

    def body(_, carry):
        agent, totals = carry
        agent, info = _update_once(agent, buffer)
        return agent, jax.tree.map(jnp.add, totals, info | {'updates': 1.0})

    return jax.lax.fori_loop(0, num_updates, body, (agent, totals))


@partial(jax.jit, donate_argnames='buffer')
def add(buffer: ReplayBuffer, transitions: Batch) -> ReplayBuffer:
    """`buffer.add(transitions)` in place: the buffer given is used up."""
    return buffer.add(transitions)


@jax.jit
def act(agent, observation: jax.Array, rng: jax.Array, step: int) -> jax.Array:
    """Returns the chunk `[h, d_a]` to execute at environment step `step`."""
    return agent.sample_actions(observation, jax.random.fold_in(rng, step))


def zero_totals(agent, buffer: ReplayBuffer) -> Totals:
    """Returns what `train` starts to add to."""
    _, info = jax.eval_shape(_update_once, agent, buffer)
    return {name: jnp.zeros(x.shape, x.dtype) for name, x in info.items()} | {
        'updates': jnp.zeros(())
    }


def averages(totals: Totals) -> dict[str, float]:
    """Returns the mean of each logged scalar over the updates in `totals`; waits for them."""
    totals = jax.device_get(totals)
    num_updates = float(totals.pop('updates'))
    return {name: float(total) / max(num_updates, 1.0) for name, total in totals.items()}
