"""Everything that changes in a run, as one value that is saved and restored.

The data set does not change and is not part of it. Functions take a state and return the next; the
device buffers of the old state may be donated.
"""

import dataclasses
import itertools
from typing import Any

import flax.struct
import jax
import numpy as np

from agents import make_agent
from training import checkpoints, updates
from training.checkpoints import Arrays
from utils.keys import key_for
from utils.replay import Replay, Rows
from utils.seeds import share_out, stack
from utils.spec import Spec

PHASES = ('offline', 'online')


class SeedState(flax.struct.PyTreeNode):
    """Agents and replays of the seeds on one device, stacked `[S, …]`."""

    agents: Any
    replays: Replay
    totals: updates.Totals

    @property
    def num_seeds(self) -> int:
        return len(self.agents.rng)


class Rollout(flax.struct.PyTreeNode):
    """Rollout state of S seeds, as NumPy arrays.

    Simulators are not part of it: the same seed and actions reproduce an episode.
    """

    observations: Any  # [S, ...], of the next chunk; not set at the start of an episode
    env_steps: np.ndarray  # [S], steps taken
    trained_steps: np.ndarray  # [S], steps whose updates are done
    episodes: np.ndarray  # [S], number of the current episode
    actions: np.ndarray  # [S, n, d_a], of the current episode
    num_actions: np.ndarray  # [S], how many of the n are real
    pending: dict[str, Any]  # transitions of the last chunks [S, …], not in replay yet
    finished: np.ndarray  # [S], episodes ended since the last row of the tables
    judged: np.ndarray  # [S], those of which the environment reported success or failure
    succeeded: np.ndarray  # [S], successful ones among them
    failures: np.ndarray  # [S], of simulators since the last row

    @classmethod
    def create(cls, num_seeds: int, horizon: int, spec: Spec) -> 'Rollout':
        """Returns the state before the first chunk; observations come from the environments."""
        count = np.zeros(num_seeds, np.int64)
        state, steps = spec.zeros(num_seeds)['observations'], spec.zeros(num_seeds, horizon)
        observations = jax.tree.map(
            lambda x: np.zeros((num_seeds, *x.shape), x.dtype), spec.observation
        )
        nothing = {'length': count, 'next_observation': state, 'done': np.zeros(num_seeds, bool)}
        return cls(
            observations=observations,
            env_steps=count,
            trained_steps=count,
            episodes=count,
            actions=steps['actions'][:, :1],
            num_actions=count,
            pending=steps | nothing,
            finished=count,
            judged=count,
            succeeded=count,
            failures=count,
        )

    @property
    def episode_actions(self) -> list[np.ndarray]:
        """The actions `[n, d_a]` of each seed's open episode."""
        return [x[:n] for x, n in zip(self.actions, self.num_actions, strict=True)]

    def with_actions(self, taken: np.ndarray, lengths: np.ndarray, done: np.ndarray) -> 'Rollout':
        """Returns the state after `lengths [S]` of the actions `taken [S, h, d_a]` were executed.

        Where `done [S]`, the episode ended, and the next has no actions yet.
        """
        before = np.where(done, 0, self.num_actions)
        after = np.where(done, 0, self.num_actions + lengths)
        room = self.actions.shape[1]
        while room < after.max():
            room *= 2  # so that a long episode is not copied at every chunk
        actions = np.zeros((len(after), room, self.actions.shape[2]), np.float32)
        actions[:, : self.actions.shape[1]] = self.actions
        for i in np.flatnonzero(after):
            actions[i, before[i] : after[i]] = taken[i, : lengths[i]]
        return self.replace(actions=actions, num_actions=after)


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run between two of its steps.

    Attributes:
        phase: 'offline' or 'online'.
        step: updates made (offline), or environment steps of the seed that has taken the fewest, at
            most up to the next report.
        reported: last step of the phase whose report is written; −1: none.
        shard: number of the data set's file in use.
        seeds: agents and replays, one entry per device.
        rollout: rollout state; None in the offline phase.
        scores: of each seed at the last evaluation.
        tables: bytes of each CSV file that belong to this state.
    """

    seeds: tuple[SeedState, ...]
    phase: str = 'offline'
    step: int = 0
    reported: int = -1
    shard: int = 0
    rollout: Rollout | None = None
    scores: tuple[dict[str, float | None], ...] = ()
    tables: dict[str, int] = dataclasses.field(default_factory=dict)

    def replace(self, **changes) -> 'RunState':
        """Returns the state with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def online(self) -> Rollout:
        """`rollout`, where the phase is known to be online."""
        assert self.rollout is not None
        return self.rollout

    @property
    def slices(self) -> list[slice]:
        """The seeds of each device."""
        ends = np.cumsum([0, *(x.num_seeds for x in self.seeds)])
        return [slice(a, b) for a, b in itertools.pairwise(ends)]


def create(description: dict, seeds: list[int], data: list[Rows], buffer_size: int) -> RunState:
    """Returns the initial state of a run.

    Args:
        description: of the agent, see `agents.make_agent`.
        seeds: the S seeds.
        data: the data set on each device to use, at most S.
        buffer_size: see `Replay.create`.
    """
    states = []
    for rows, part in zip(data, share_out(len(seeds), len(data)), strict=True):
        agents = stack([make_agent(description, seed) for seed in seeds[part]])
        replays = stack([Replay.create(rows, buffer_size)] * len(seeds[part]))
        agents, replays = jax.device_put((agents, replays), rows.device)
        states.append(SeedState(agents, replays, updates.zero_totals(agents, replays, rows)))
    return RunState(seeds=tuple(states))


def with_agents(state: RunState, agents: list[Any], seeds: list[int]) -> RunState:
    """Returns the state with the arrays of other agents, one per seed.

    Later draws use a new key, made from the seed and the agent's own key, so seeds that start from
    the same agent differ, and none repeats the draws of the original run.
    """
    agents = [
        agent.replace(rng=jax.random.fold_in(key_for(seed, 'restart'), agent.rng[0]))
        for agent, seed in zip(agents, seeds, strict=True)
    ]
    parts = []
    for part, mine in zip(state.seeds, share_out(len(seeds), len(state.seeds)), strict=True):
        stacked = jax.device_put(stack(agents[mine]), part.agents.rng.device)
        parts.append(part.replace(agents=stacked))
    return state.replace(seeds=tuple(parts))


def begin_online(state: RunState, data: list[Rows], config: Any) -> RunState:
    """Returns the state at the start of the online phase of the run with this `RunConfig`."""
    num_seeds, spec = sum(x.num_seeds for x in state.seeds), state.seeds[0].agents.spec
    rollout = Rollout.create(num_seeds, config.horizon_length, spec)
    num_transitions = config.online_steps + config.horizon_length  # the last chunk is full
    seeds = []
    for part, rows in zip(state.seeds, data, strict=True):
        agents, replays = updates.begin_online(
            part.agents, part.replays, rows, num_transitions, config.offline_batch_ratio
        )
        seeds.append(SeedState(agents, replays, updates.zero_totals(agents, replays, rows)))
    return state.replace(phase='online', step=0, reported=-1, seeds=tuple(seeds), rollout=rollout)


# ---- to and from checkpoints --------------------------------------------------------------------


def to_arrays(state: RunState) -> tuple[Arrays, dict]:
    """Copies a state to the host, as arrays and metadata for `checkpoints.save`.

    Waits for the device. Rows of the replays that were never written are omitted.
    """
    replays = [part.replays.rows for part in state.seeds]
    # One more than written: the current state of an open episode.
    written = min(1 + max(int(x.num_rows.max()) for x in replays), replays[0].size)

    def join(name: str, *parts) -> np.ndarray:
        parts = [np.asarray(x) for x in parts]
        if _holds_rows(name, parts[0]):
            parts = [x[:, :written] for x in parts]
        return np.concatenate(parts)  # a copy: buffers may be donated

    devices = [checkpoints.named_leaves(part) for part in state.seeds]
    arrays = {name: join(name, *(each[name] for each in devices)) for name in devices[0]}
    if state.rollout is not None:
        arrays |= checkpoints.flatten({'play': state.rollout})
    metadata = {
        name: getattr(state, name)
        for name in ('phase', 'step', 'reported', 'shard', 'scores', 'tables')
    }
    return arrays, metadata


def _holds_rows(name: str, array: np.ndarray) -> bool:
    """Whether an array `[S, R, …]` has a place for each row of a replay."""
    return name.startswith('replays/rows/') and array.ndim > 1


def not_finite(arrays: Arrays) -> str | None:
    """Returns the name of an agent's array with NaN or infinity in it, or None."""
    for name, array in arrays.items():
        if name.startswith('agents/') and array.dtype.kind == 'f' and not np.isfinite(array).all():
            return name
    return None


def from_arrays(
    metadata: dict, arrays: Arrays, fresh: RunState, data: list[Rows], config, where: str
) -> RunState:
    """Returns the state that `to_arrays` copied, on the devices of `data`.

    Args:
        metadata, arrays: from the checkpoint.
        fresh: the run's initial state.
        data: the data set on each device.
        config: the run's `RunConfig`.
        where: names the checkpoint in errors.

    Raises:
        CheckpointError: it does not fit the run.
    """
    state = fresh
    if metadata['phase'] == 'online':
        state = begin_online(fresh, data, config)
        rollout = state.online.replace(actions=arrays['play/actions'])  # of any length
        found = checkpoints.unflatten({'play': rollout}, arrays, where)
        state = state.replace(rollout=found['play'])
    size = state.seeds[0].replays.rows.size

    def padded(name: str, array: np.ndarray) -> np.ndarray:
        if not _holds_rows(name, array):
            return array
        missing = size - array.shape[1]
        return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))

    seeds = []
    for part, device_part in zip(state.slices, state.seeds, strict=True):
        own = {name: padded(name, array[part]) for name, array in arrays.items()
               if not name.startswith('play/')}  # fmt: skip
        found = checkpoints.unflatten(device_part, own, where)
        seeds.append(jax.device_put(found, device_part.agents.rng.device))
    return state.replace(
        seeds=tuple(seeds),
        **{name: metadata[name] for name in ('step', 'reported', 'shard', 'tables')},
        scores=tuple(metadata['scores']),
    )
