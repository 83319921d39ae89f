"""Replay on the device: offline and online data in one pool, every state stored once.

A row holds a state and the action taken there; the final state of an episode is a row of its own,
without an action. Rows carry the number of their episode, so `s_{i+1}` is the next row, and "step
j of this chunk belongs to the episode it started in" is one comparison of integers.

Rows are numbered in the order they came, first the data set's, then those of the online phase. Of
these the newest `capacity` are alive. The data set is never written to, so that seeds trained
together share it; what came online lies in a ring of its own.

`add` and `sample` are pure and jittable; sampling runs inside the loop that trains.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

Batch = dict[str, jax.Array]


class Rows(flax.struct.PyTreeNode):
    """Storage for R rows, and the list of those that hold an action."""

    observations: jax.Array  # [R, d_s]
    actions: jax.Array  # [R, d_a]
    rewards: jax.Array  # [R]
    masks: jax.Array  # [R], 0 where the task terminated
    episode_ids: jax.Array  # [R] int32
    starts: jax.Array  # [R] int32, numbers of the rows that hold an action, oldest first
    num_rows: jax.Array  # int32, rows ever stored
    num_starts: jax.Array  # int32, of them with an action
    num_episodes: jax.Array  # int32, of them final

    @property
    def size(self) -> int:
        return self.rewards.shape[-1]

    @classmethod
    def of_dataset(cls, rows: dict[str, np.ndarray], size: int | None = None) -> 'Rows':
        """Puts a data set on the device.

        Args:
            rows: `observations [R, d_s]`, `actions [R, d_a]`, `rewards [R]`, `masks [R]` and
                `terminals [R]` (true on the last row of each episode, which holds no action).
                Not to be changed afterwards: on a CPU the device may use the same memory.
            size: rows to make room for, the data set's by default. Data sets that take turns
                must have the same.

        Raises:
            ValueError: the data set has more rows than `size`.
        """
        terminals = np.asarray(rows['terminals'], bool)
        num_rows = len(terminals)
        size = size or num_rows
        if num_rows > size:
            raise ValueError(f'The data set has {num_rows} rows, the buffer room for {size}.')

        def put(values, dtype=np.float32):
            values = np.asarray(values, dtype)
            missing = size - len(values)
            if missing:
                values = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
            return jax.device_put(values)  # jnp.asarray makes a second copy on the way

        episode_ids = np.zeros(num_rows, np.int32)
        np.cumsum(terminals[:-1], out=episode_ids[1:])
        starts = np.flatnonzero(~terminals)
        return cls(
            observations=put(rows['observations']),
            actions=put(rows['actions']),
            rewards=put(rows['rewards']),
            masks=put(rows['masks']),
            episode_ids=put(episode_ids, np.int32),
            starts=put(starts, np.int32),
            num_rows=jnp.int32(num_rows),
            num_starts=jnp.int32(len(starts)),
            num_episodes=jnp.int32(terminals.sum()),
        )

    def empty(self, *shape: int) -> 'Rows':
        """Returns room for rows like these; the last number of the shape counts them."""

        def zeros(x):
            return jnp.zeros((*shape, *x.shape[1:]) if x.ndim else shape[:-1], x.dtype)

        return jax.tree.map(zeros, self)


class ReplayBuffer(flax.struct.PyTreeNode):
    """The data set and what came online; see the module's docstring."""

    offline: Rows
    online: Rows  # row n of the pool is row (n − offline.num_rows) mod its size
    num_dropped: jax.Array  # int32, starts that are not alive any more
    is_open: jax.Array  # bool, the row after the last holds the state reached, rewritten by `add`
    capacity: int = flax.struct.field(pytree_node=False)

    @classmethod
    def create(cls, offline: Rows, buffer_size: int) -> 'ReplayBuffer':
        """Makes a buffer that holds a data set.

        Args:
            offline: the data set, from `Rows.of_dataset`.
            buffer_size: transitions it must hold online. Room is made for at least one transition
                more than the data set has, and for the data set's final states besides.
        """
        return cls(
            offline=offline,
            online=offline.empty(1),
            num_dropped=jnp.int32(0),
            is_open=jnp.asarray(False),
            capacity=max(buffer_size + int(offline.num_episodes), offline.size + 2),
        )

    def begin_online(self, num_transitions: int) -> 'ReplayBuffer':
        """Returns the buffer with room for `num_transitions` online ones.

        Each may need a second row, for the state an episode ends in; what is beyond the capacity
        is overwritten, the oldest first.
        """
        size = min(self.capacity, 2 * num_transitions + 1)
        return self.replace(online=self.offline.empty(*self.is_open.shape, size))

    @property
    def num_starts(self) -> jax.Array:
        """Transitions that may be sampled."""
        return self.offline.num_starts + self.online.num_starts - self.num_dropped

    @property
    def _next(self) -> jax.Array:
        """Number of the row written next."""
        return self.offline.num_rows + self.online.num_rows

    def _start(self, index: jax.Array) -> jax.Array:
        """Numbers of the rows that hold an action, by their place among them."""
        later = (index - self.offline.num_starts) % self.online.size
        earlier = jnp.minimum(index, self.offline.size - 1)
        return jnp.where(
            index < self.offline.num_starts, self.offline.starts[earlier], self.online.starts[later]
        )

    def _read(self, name: str, number: jax.Array) -> jax.Array:
        """Rows of the pool by their numbers."""
        offline, online = getattr(self.offline, name), getattr(self.online, name)
        earlier = offline[jnp.minimum(number, self.offline.size - 1)]
        later = online[(number - self.offline.num_rows) % self.online.size]
        is_offline = number < self.offline.num_rows
        shape = is_offline.shape + (1,) * (earlier.ndim - is_offline.ndim)
        return jnp.where(is_offline.reshape(shape), earlier, later)

    def add(self, transitions: Batch) -> 'ReplayBuffer':
        """Appends consecutive transitions of one episode.

        Args:
            transitions: `observations [n, d_s]`, `actions [n, d_a]`, `rewards [n]`, `masks [n]`;
                `length` (int), how many of the n are real, if 0 nothing is done;
                `next_observation [d_s]`, the state after the last real one; `done` (bool),
                whether the episode ends there.

        Raises:
            ValueError: n transitions and the state after them do not fit the buffer.
        """
        num, size = transitions['rewards'].shape[0], self.online.size
        if num + 1 > size:
            raise ValueError(
                f'{num} transitions do not fit a buffer with room for {size} online rows; '
                'make it with begin_online(num_transitions).'
            )
        length = jnp.asarray(transitions['length'])
        done = jnp.asarray(transitions['done'], bool) & (length > 0)
        online, offset = self.online, jnp.arange(num + 1)
        # Row `length` holds the state reached: final if done, else rewritten by the next `add`.
        slots = (online.num_rows + offset) % size
        slots = jnp.where((offset <= length) & (length > 0), slots, size)

        def write(storage, values, last):
            last = jnp.broadcast_to(jnp.asarray(last, storage.dtype), storage.shape[1:])
            values = jnp.concatenate([values.astype(storage.dtype), last[None]])
            is_last = (offset == length).reshape((-1,) + (1,) * (values.ndim - 1))
            return storage.at[slots].set(jnp.where(is_last, last, values), mode='drop')

        start_slots = (online.num_starts + offset) % size
        start_slots = jnp.where(offset < length, start_slots, size)
        episode = self.offline.num_episodes + online.num_episodes
        new = self.replace(
            online=Rows(
                observations=write(
                    online.observations,
                    transitions['observations'],
                    transitions['next_observation'],
                ),
                actions=write(online.actions, transitions['actions'], 0.0),
                rewards=write(online.rewards, transitions['rewards'], 0.0),
                masks=write(online.masks, transitions['masks'], 1.0),
                episode_ids=online.episode_ids.at[slots].set(episode, mode='drop'),
                starts=online.starts.at[start_slots].set(self._next + offset, mode='drop'),
                num_rows=online.num_rows + length + done,
                num_starts=online.num_starts + length,
                num_episodes=online.num_episodes + done,
            ),
            is_open=jnp.where(length > 0, ~done, self.is_open),
        )
        # Starts are in the order of writing, so those that are too old now are the oldest of them.
        oldest = self._start(self.num_dropped + offset)
        too_old = oldest < new._next + new.is_open - self.capacity
        return new.replace(
            num_dropped=self.num_dropped + jnp.sum(too_old & (offset < self.num_starts))
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
        start = self._start(self.num_dropped + drawn)
        rows = start[:, None] + jnp.arange(horizon + 1)
        episode_ids = self._read('episode_ids', rows)
        written = rows < self._next + self.is_open
        valid = written[:, 1:] & (episode_ids[:, 1:] == episode_ids[:, :1])
        steps = rows[:, :-1]
        discounts = discount ** jnp.arange(horizon, dtype=jnp.float32)
        return {
            'observations': self._read('observations', start),
            'actions': jnp.where(valid[..., None], self._read('actions', steps), 0.0),
            'rewards': jnp.sum(
                jnp.where(valid, discounts * self._read('rewards', steps), 0.0), axis=1
            ),
            'masks': jnp.prod(jnp.where(valid, self._read('masks', steps), 1.0), axis=1),
            'next_observations': self._read('observations', start + jnp.sum(valid, axis=1)),
            'valid': valid.astype(jnp.float32),
        }

    def load(self, offline: Rows) -> 'ReplayBuffer':
        """Replaces the data set by another of the same size (see `Rows.of_dataset`).

        Raises:
            ValueError: the sizes differ.
        """
        if offline.size != self.offline.size:
            raise ValueError(
                f'The data set has room for {offline.size} rows, the buffer for '
                f'{self.offline.size}: put it there with that size.'
            )
        return self.replace(offline=offline)

    def replicate(self, num_seeds: int) -> 'ReplayBuffer':
        """Returns buffers `[num_seeds, …]` that share the data set; see `seed_axes`."""
        own = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (num_seeds, *x.shape)), self.replace(offline=None)
        )
        return own.replace(offline=self.offline)

    def seed_axes(self) -> 'ReplayBuffer':
        """Returns which axis of each part counts the seeds, as `jax.vmap` takes it."""
        return self.replace(offline=None, online=0, num_dropped=0, is_open=0)
