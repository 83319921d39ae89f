"""Replay on the device: one pytree for offline and online data.

Every state is stored once. A row holds a state and the action taken there; the final state of
an episode is a row of its own, without an action. Rows carry the number of their episode, so
`s_{i+1}` is the next row, and "step j of this chunk belongs to the episode it started in" is one
comparison of integers. The rows form a ring: when it is full, the oldest are overwritten first.

`add` and `sample` are pure and jittable; sampling runs inside the scan that trains.
"""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np

Batch = dict[str, jax.Array]


class ReplayBuffer(flax.struct.PyTreeNode):
    """A ring of C rows and the list of those that hold an action.

    `starts[(oldest_start + k) % C]` for `k < num_starts` are the rows that hold an action, oldest
    first. Drawing from this list is exactly uniform however short the episodes are, and keeping
    it costs four bytes a row.
    """

    observations: jax.Array  # [C, d_s]
    actions: jax.Array  # [C, d_a]
    rewards: jax.Array  # [C]
    masks: jax.Array  # [C], 0 where the task terminated
    episode_ids: jax.Array  # [C] int32, -1 for rows never written
    starts: jax.Array  # [C] int32
    oldest_start: jax.Array  # int32
    num_starts: jax.Array  # int32, transitions stored
    head: jax.Array  # int32, the row written next
    episode: jax.Array  # int32, id of the episode being written
    is_open: jax.Array  # bool, the row at `head` holds the state after the newest transition

    @property
    def capacity(self) -> int:
        return self.episode_ids.shape[-1]

    @classmethod
    def create(cls, rows: dict[str, np.ndarray], buffer_size: int) -> 'ReplayBuffer':
        """Makes a buffer that holds a data set and has room for more.

        Args:
            rows: `observations [R, d_s]`, `actions [R, d_a]`, `rewards [R]`, `masks [R]` and
                `terminals [R]` (true on the last row of each episode, which holds no action).
            buffer_size: transitions it must hold. Room is made for at least one transition more
                than the data set has, and for the data set's final states besides.
        """
        num_rows, num_finals = len(rows['terminals']), int(np.sum(rows['terminals']))
        capacity = max(buffer_size + num_finals, num_rows + 2)
        zeros = partial(jnp.zeros, dtype=jnp.float32)
        empty = cls(
            observations=zeros((capacity, rows['observations'].shape[1])),
            actions=zeros((capacity, rows['actions'].shape[1])),
            rewards=zeros(capacity),
            masks=zeros(capacity),
            episode_ids=jnp.full(capacity, -1, jnp.int32),
            starts=jnp.zeros(capacity, jnp.int32),
            oldest_start=jnp.int32(0),
            num_starts=jnp.int32(0),
            head=jnp.int32(0),
            episode=jnp.int32(0),
            is_open=jnp.asarray(False),
        )
        return empty.load(rows)

    def load(self, rows: dict[str, np.ndarray]) -> 'ReplayBuffer':
        """Replaces everything stored by a data set (see `create`).

        The storage is reused, so the buffer this is called on is used up.

        Raises:
            ValueError: the data set has more rows than the buffer.
        """
        terminals = np.asarray(rows['terminals'], bool)
        num_rows = len(terminals)
        if num_rows > self.capacity:
            raise ValueError(
                f'The data set has {num_rows} rows, the replay buffer room for {self.capacity}: '
                'raise --buffer_size.'
            )
        episode_ids = np.zeros(num_rows, np.int32)
        np.cumsum(terminals[:-1], out=episode_ids[1:])
        starts = np.flatnonzero(~terminals).astype(np.int32)
        return self.replace(
            observations=_write_prefix(self.observations, rows['observations']),
            actions=_write_prefix(self.actions, rows['actions']),
            rewards=_write_prefix(self.rewards, rows['rewards']),
            masks=_write_prefix(self.masks, rows['masks']),
            episode_ids=_write_prefix(_fill(self.episode_ids, -1), episode_ids),
            starts=_write_prefix(self.starts, starts),
            oldest_start=jnp.int32(0),
            num_starts=jnp.int32(len(starts)),
            head=jnp.int32(num_rows % self.capacity),
            episode=jnp.int32(np.sum(terminals)),
            is_open=jnp.asarray(False),
        )

    def add(self, transitions: Batch) -> 'ReplayBuffer':
        """Appends consecutive transitions of one episode, overwriting the oldest rows.

        Args:
            transitions: `observations [n, d_s]`, `actions [n, d_a]`, `rewards [n]`, `masks [n]`;
                `length` (int), how many of the n are real; `next_observation [d_s]`, the state
                after the last real one; `done` (bool), whether the episode ends there.

        Raises:
            ValueError: n transitions and the state after them do not fit the buffer.
        """
        num = transitions['rewards'].shape[0]
        if num + 1 >= self.capacity:
            raise ValueError(f'{num} transitions do not fit a buffer of {self.capacity} rows.')
        length, done = transitions['length'], transitions['done']
        offset = jnp.arange(num + 1)
        # Row `length` holds the state reached: final if done, else rewritten by the next `add`.
        rows = jnp.where(offset <= length, (self.head + offset) % self.capacity, self.capacity)

        def write(storage, values, last):
            last = jnp.broadcast_to(jnp.asarray(last, storage.dtype), storage.shape[1:])
            values = jnp.concatenate([values.astype(storage.dtype), last[None]])
            is_last = (offset == length).reshape((-1,) + (1,) * (values.ndim - 1))
            return storage.at[rows].set(jnp.where(is_last, last, values), mode='drop')

        # Starts are in the order of writing, so those overwritten are the oldest of them.
        oldest = self.starts[(self.oldest_start + offset) % self.capacity]
        overwritten = (oldest - self.head) % self.capacity <= length
        num_dropped = jnp.sum(overwritten & (offset < self.num_starts))
        slots = (self.oldest_start + self.num_starts + offset) % self.capacity
        slots = jnp.where(offset < length, slots, self.capacity)
        return self.replace(
            observations=write(
                self.observations, transitions['observations'], transitions['next_observation']
            ),
            actions=write(self.actions, transitions['actions'], 0.0),
            rewards=write(self.rewards, transitions['rewards'], 0.0),
            masks=write(self.masks, transitions['masks'], 1.0),
            episode_ids=self.episode_ids.at[rows].set(self.episode, mode='drop'),
            starts=self.starts.at[slots].set(rows, mode='drop'),
            oldest_start=(self.oldest_start + num_dropped) % self.capacity,
            num_starts=self.num_starts - num_dropped + length,
            head=(self.head + length + done) % self.capacity,
            episode=self.episode + done,
            is_open=~jnp.asarray(done, bool),
        )

    def sample(self, rng: jax.Array, batch_size: int, horizon: int, discount: float) -> Batch:
        """Draws chunks that start at rows drawn uniformly from those that hold an action.

        A chunk that runs over the end of its episode keeps its valid prefix: later actions are
        zeros, later rewards and masks are left out, and the next observation is the last state
        of the episode, so that nothing of another episode is ever seen.

        Returns:
            `observations [B, d_s]`, `actions [B, h, d_a]`, `rewards [B]` (discounted sum over the
            chunk), `masks [B]` (0 if the task terminated within it), `next_observations [B, d_s]`
            and `valid [B, h]` (1 while the chunk is inside its episode).
        """
        drawn = jax.random.randint(rng, (batch_size,), 0, self.num_starts)
        start = self.starts[(self.oldest_start + drawn) % self.capacity]
        offset = jnp.arange(horizon)
        rows = (start[:, None] + jnp.arange(horizon + 1)) % self.capacity
        episode_ids = self.episode_ids[rows]
        # The number comparison alone is fooled by an episode longer than the whole buffer.
        newest = self.head - 1 + self.is_open
        num_newer = (newest - start[:, None]) % self.capacity
        valid = (episode_ids[:, 1:] == episode_ids[:, :1]) & (offset < num_newer)
        length = jnp.sum(valid, axis=1)
        steps = rows[:, :-1]
        discounts = discount ** offset.astype(jnp.float32)
        return {
            'observations': self.observations[start],
            'actions': jnp.where(valid[..., None], self.actions[steps], 0.0),
            'rewards': jnp.sum(jnp.where(valid, discounts * self.rewards[steps], 0.0), axis=1),
            'masks': jnp.prod(jnp.where(valid, self.masks[steps], 1.0), axis=1),
            'next_observations': self.observations[(start + length) % self.capacity],
            'valid': valid.astype(jnp.float32),
        }


@partial(jax.jit, donate_argnums=0)
def _write_prefix(storage, values):
    return jax.lax.dynamic_update_slice_in_dim(storage, values.astype(storage.dtype), 0, axis=0)


@partial(jax.jit, donate_argnums=0)
def _fill(storage, value):
    return jnp.full_like(storage, value)
