"""The device programs: many updates in one dispatch, acting, and storing transitions.

They take the stacked trees `[S, …]` of the seeds on one device (utils/seeds.py), and the data set
that they share.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from utils.replay import Batch, Replay, Rows
from utils.seeds import over_seeds

Array = jax.Array | np.ndarray
NEVER = np.iinfo(np.int32).max
DIAGNOSIS = 0x64696167  # 'diag', folded into a key; small numbers collide with its splits


class Totals(flax.struct.PyTreeNode):
    """Sums of the K scalars that an agent logs, over the updates since the last row of the tables.

    Float32 stops counting at 2²⁴, so the number of updates is an integer, and sums are compensated
    (Kahan, 1965): their error does not grow with the number of updates.
    """

    updates: Array  # [K] int32, all equal; arrays of one shape are updated in one kernel
    sums: Array  # [K]
    excess: Array  # [K], to subtract from the sums
    first_bad: Array  # [K] int32, updates before the first one whose scalar is not finite
    names: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def zeros(cls, names: Sequence[str]) -> 'Totals':
        """Returns the totals of no updates, as NumPy arrays."""
        zeros = np.zeros(len(names), np.float32)
        never = np.full(len(names), NEVER, np.int32)
        return cls(np.zeros_like(never), zeros, zeros, never, tuple(names))

    def add(self, info: dict[str, jax.Array]) -> 'Totals':
        """Returns the totals with the scalars of one more update."""
        values = jnp.stack([jnp.asarray(info[name], jnp.float32) for name in self.names])
        added = values - self.excess
        sums = self.sums + added
        bad_now = jnp.where(jnp.isfinite(values), NEVER, self.updates)
        return self.replace(
            updates=self.updates + 1,
            sums=sums,
            excess=(sums - self.sums) - added,
            first_bad=jnp.minimum(self.first_bad, bad_now),
        )


class Summary(NamedTuple):
    """The totals of one seed, evaluated.

    Attributes:
        updates: number of updates.
        averages: the mean of each logged scalar over them; None if there are no updates.
        first_bad: number of updates before the first one with a scalar that is not finite; None if
            all are finite.
        bad: names of that update's scalars that are not finite.
    """

    updates: int
    averages: dict[str, float | None]
    first_bad: int | None = None
    bad: tuple[str, ...] = ()


def _update(agent, replay: Replay, data: Rows):
    rng, sample_rng = jax.random.split(agent.rng)
    return agent.replace(rng=rng).update(agent.sample_batch(replay, data, sample_rng))


def _update_many(agent, replay: Replay, data: Rows, groups, rest, totals: Totals, group: int):
    def body(_, carry):
        agent, totals = carry
        agent, info = _update(agent, replay, data)
        return agent, totals.add(info)

    def body_of_group(_, carry):
        return jax.lax.fori_loop(0, group, body, carry)

    carry = agent, totals
    if group > 1:
        carry = jax.lax.fori_loop(0, groups, body_of_group, carry)
    return jax.lax.fori_loop(0, rest, body, carry)


@partial(jax.jit, donate_argnames=('agents', 'totals'), static_argnames='group')
def update_many(
    agents, replays: Replay, data: Rows, num_updates, totals: Totals, group: int = 1
) -> tuple[Any, Totals]:
    """Makes updates of all seeds, each on a fresh batch, without returning to Python.

    The number is an argument of the program, so one compilation serves whole intervals, their
    remainders and chunks of any length.

    On an accelerator, a `while` loop with a traced trip count syncs with the host every iteration.
    So the updates that are due for all seeds run in groups, in an inner loop of constant length,
    and only the rest runs one by one.

    Args:
        agents: stacked `[S, …]`. Their buffers are donated, like those of `totals`.
        replays: what each seed added to the data set, `[S, …]`.
        data: the data set.
        num_updates: 0 or more; an integer for all seeds, or `[S]` per seed. Seeds with fewer
            updates wait for the others.
        totals: sums of the agents' logged scalars, from `zero_totals` or an earlier call.
        group: updates in a group, a constant of the program; see `group_size`. 1: no groups.

    Returns:
        The updated agents and totals.
    """
    num_updates = jnp.asarray(num_updates, jnp.int32)
    groups = num_updates.min() // group if group > 1 else 0
    rest = num_updates - groups * group
    axes = (0, 0, None, None, 0 if rest.ndim else None, 0)
    function = partial(_update_many, group=group)
    return over_seeds(function, axes)(agents, replays, data, groups, rest, totals)


def group_size(device: Any, num_updates: int) -> int:
    """Returns the best `group` for `num_updates` updates in one dispatch.

    On CPU there is no host sync, so grouping would only add compile time.
    """
    return 1 if device.platform == 'cpu' else num_updates


@partial(jax.jit, donate_argnames='replays')
def add_transitions(replays: Replay, data: Rows, transitions: Batch) -> Replay:
    """Calls `Replay.add` for each seed; the buffers of `replays` are donated."""
    return over_seeds(Replay.add, (0, None, 0))(replays, data, transitions)


@jax.jit
def act(policies, observations: Any, rngs: jax.Array, steps: jax.Array) -> jax.Array:
    """Returns the chunks `[S, h, d_a]` to execute.

    Args:
        policies: stacked `[S, …]`.
        observations: `[S, ...]`.
        rngs: of each seed's exploration, `[S, 2]`.
        steps: environment steps taken so far, `[S]`.
    """

    def act_one(policy, observation, rng, step):
        return policy.sample_actions(observation, jax.random.fold_in(rng, step))

    return over_seeds(act_one, (0, 0, 0, 0))(policies, observations, rngs, steps)


@partial(jax.jit, static_argnames=('num_transitions', 'offline_ratio'))
def begin_online(
    agents, replays: Replay, data: Rows, num_transitions: int, offline_ratio: float | None = None
) -> tuple[Any, Replay]:
    """Returns agents and replays in their online phase; see `Replay.begin_online`."""

    def begin(agent, replay, data):
        return agent.begin_online(), replay.begin_online(data, num_transitions, offline_ratio)

    return over_seeds(begin, (0, 0, None))(agents, replays, data)


@jax.jit
def diagnose(agents, replays: Replay, data: Rows) -> dict[str, jax.Array]:
    """Returns the results of `Agent.diagnose` for each seed, `[S]`, on a new batch.

    It does not change the agents' random numbers, and so not what they learn.
    """

    def diagnose_one(agent, replay, data):
        batch_rng, rng = jax.random.split(jax.random.fold_in(agent.rng, DIAGNOSIS))
        return agent.diagnose(agent.sample_batch(replay, data, batch_rng), rng)

    return over_seeds(diagnose_one, (0, 0, None))(agents, replays, data)


def zero_totals(agents, replays: Replay, data: Rows) -> Totals:
    """Returns the totals of no updates, `[S, …]`, for `update_many`."""
    names = jax.eval_shape(_infos, agents, replays, data)
    zeros = [Totals.zeros(tuple(names))] * len(agents.rng)
    return jax.device_put(jax.tree.map(lambda *x: np.stack(x), *zeros), agents.rng.device)


@jax.jit  # only for its cache of traces; never executed
def _infos(agents, replays: Replay, data: Rows):
    return over_seeds(_update, (0, 0, None))(agents, replays, data)[1]


def summaries(totals: Totals) -> list[Summary]:
    """Returns a summary per seed of the totals `[S, …]` on one device.

    If they are on the device, it waits for the updates.
    """
    totals = jax.device_get(totals)
    return [_summary(jax.tree.map(lambda x, i=i: x[i], totals)) for i in range(len(totals.updates))]


def _summary(totals: Totals) -> Summary:
    updates, first_bad = int(totals.updates.max()), int(totals.first_bad.min())
    if not updates:
        return Summary(0, dict.fromkeys(totals.names))
    means = (totals.sums.astype(np.float64) - totals.excess) / updates
    averages = dict(zip(totals.names, means.tolist(), strict=True))
    if first_bad == NEVER:
        return Summary(updates, averages)
    bad = zip(totals.names, totals.first_bad, strict=True)
    return Summary(updates, averages, first_bad, tuple(name for name, at in bad if at == first_bad))


def on_each_device(function: Callable, stacks: Sequence[Any], *inputs: Any) -> np.ndarray:
    """Calls `function(stack, *inputs)` with each device's stack and the inputs of its seeds.

    All devices get their work before it waits for the first.

    Args:
        function: of stacked trees `[S_d, …]`.
        stacks: one per device.
        inputs: trees of arrays `[S, …]`, of all seeds.

    Returns:
        The results `[S, …]`, on the host.
    """
    results, start = [], 0
    for each in stacks:
        end = start + jax.tree.leaves(each)[0].shape[0]
        part = slice(start, end)
        results.append(function(each, *jax.tree.map(lambda x, part=part: x[part], inputs)))
        start = end
    return np.concatenate([np.asarray(x) for x in results])
