"""Replay on the device: offline and online data in one pool, every state stored once.

A row holds a state and the action taken there; the final state of an episode has its own row,
without an action. So `s_{i+1}` is the next row. Rows also hold the number of their episode, so
"step j of this chunk belongs to the episode it started in" is one comparison of integers.

Rows are numbered in order of arrival, first the data set's, then the online ones. The newest
`capacity` rows are alive. `Rows` holds the data set and is read-only; `Replay` holds what one seed
adds online, in a ring. Seeds share the data set, so `add` and `sample` take it as a separate
argument `data`: `jax.vmap(f, in_axes=(0, None))(replays, data)`.

`add` and `sample` are pure and jittable; sampling runs inside the training loop.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from utils.errors import UserError
from utils.spec import TERMINALS, Spec, check_tree, is_image

Batch = dict[str, Any]  # of arrays and trees of arrays


class Rows(flax.struct.PyTreeNode):
    """Storage for R rows, and the numbers of the rows that hold an action."""

    fields: dict[str, Any]  # the transition's tree (utils/spec.py), each array [R, ...]
    episode_ids: jax.Array  # [R] int32
    starts: jax.Array  # [R] int32, numbers of the rows that hold an action, oldest first
    num_rows: jax.Array  # int32, rows ever stored
    num_starts: jax.Array  # int32, rows with an action
    num_episodes: jax.Array  # int32, final rows

    @property
    def size(self) -> int:
        return self.starts.shape[-1]

    @property
    def device(self) -> Any:
        return self.starts.device

    @classmethod
    def from_dataset(cls, rows: dict[str, Any], size: int | None = None) -> 'Rows':
        """Puts a data set on the device.

        Args:
            rows: the transition's tree, each array `[R, ...]`, and `terminals [R]` (true on the
                last row of each episode, which holds no action). Do not change them afterwards: on
                CPU the device may share their memory.
            size: rows to allocate, by default R. All shards of a data set must have the same size.

        Raises:
            ValueError: the data set has more rows than `size`, an array is missing, or its shape is
                wrong.
        """
        check_tree(rows, {TERMINALS: (...,), 'observations': {}, 'actions': (...,)})
        terminals = np.asarray(rows[TERMINALS], bool)
        num_rows, spec = len(terminals), Spec.of(rows)
        check_tree(rows, dict.fromkeys((TERMINALS, 'rewards', 'masks'), (num_rows,)))
        check_tree(rows, {name: spec.shapes(name, num_rows) for name in spec.transition})
        size = size or num_rows
        if num_rows > size:
            raise ValueError(f'The data set has {num_rows} rows, more than size={size}.')

        def put(values: np.ndarray, dtype: Any) -> jax.Array:
            values = np.asarray(values, dtype)
            missing = size - len(values)
            if missing:
                values = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
            return jax.device_put(values)  # jnp.asarray makes a second copy

        episode_ids = np.zeros(num_rows, np.int32)
        np.cumsum(terminals[:-1], out=episode_ids[1:])
        starts = np.flatnonzero(~terminals)
        zeros = spec.zeros()
        return cls(
            fields=jax.tree.map(
                lambda x, zero: put(x, zero.dtype), {name: rows[name] for name in zeros}, zeros
            ),
            episode_ids=put(episode_ids, np.int32),
            starts=put(starts, np.int32),
            num_rows=jnp.int32(num_rows),
            num_starts=jnp.int32(len(starts)),
            num_episodes=jnp.int32(terminals.sum()),
        )

    def empty(self, size: int) -> 'Rows':
        """Returns empty storage for `size` rows of the same kind."""
        return jax.tree.map(
            lambda x: jnp.zeros((size, *x.shape[1:]) if x.ndim else (), x.dtype), self
        )


def first_transitions(rows: dict[str, np.ndarray], proportion: float) -> dict[str, np.ndarray]:
    """Returns the first part of a data set, for `Rows.from_dataset`.

    Args:
        rows: the data set.
        proportion: fraction of its transitions, rounded down. The last episode is truncated there.

    Raises:
        UserError: no transition is left.
    """
    terminals = np.asarray(rows['terminals'], bool)
    starts = np.flatnonzero(~terminals)
    num = int(proportion * len(starts))
    if num < 1:
        raise UserError(
            f'--dataset_proportion={proportion}: leaves none of {len(starts)} transitions; use more'
        )
    num_rows = starts[num - 1] + 2  # the row after a transition holds its next state
    part = jax.tree.map(lambda values: values[:num_rows].copy(), rows)
    part['terminals'][-1] = True
    return part


class Replay(flax.struct.PyTreeNode):
    """What one seed added to the data set, and which rows of both are alive.

    Every method takes the data set `data`, always the same one or a shard of the same size.
    """

    rows: Rows  # row n of the pool is row (n − data.num_rows) mod size
    num_dropped: jax.Array  # int32, starts that are no longer alive
    episode_is_open: jax.Array  # bool, the row after the last holds the current state
    capacity: int = flax.struct.field(pytree_node=False)
    offline_ratio: float | None = flax.struct.field(pytree_node=False, default=None)

    @classmethod
    def create(cls, data: Rows, buffer_size: int) -> 'Replay':
        """Returns a replay without online rows, for the offline phase.

        Args:
            data: the data set, from `Rows.from_dataset`.
            buffer_size: transitions to keep online, including the data set's; the last observation
                of each online episode takes the place of one. At least one more than the data set
                has is allocated, plus its final states.
        """
        return cls(
            rows=data.empty(1),
            num_dropped=jnp.int32(0),
            episode_is_open=jnp.asarray(False),
            capacity=max(buffer_size + int(data.num_episodes), data.size + 2),
        )

    def begin_online(
        self, data: Rows, num_transitions: int, offline_ratio: float | None = None
    ) -> 'Replay':
        """Returns the replay with storage for `num_transitions` online ones.

        Each may need a second row, for the final state of its episode. Beyond the capacity the
        oldest rows are overwritten.

        Args:
            data: the data set.
            num_transitions: number of online transitions.
            offline_ratio: fraction of each batch that `sample` draws from the data set, which is
                never overwritten then; the rest comes from online transitions once there are any.
                None: both are one pool.
        """
        size = min(self.capacity, 2 * num_transitions + 1)
        return self.replace(rows=data.empty(size), offline_ratio=offline_ratio)

    def num_starts(self, data: Rows) -> jax.Array:
        """Returns the number of transitions that may be sampled."""
        return data.num_starts + self.rows.num_starts - self.num_dropped

    def add(self, data: Rows, transitions: Batch) -> 'Replay':
        """Appends consecutive transitions of one episode.

        Args:
            data: the data set.
            transitions: the transition's tree, each array `[n, ...]`; `length` (int), how many of
                the n are real; `next_observation`, the state after the last real one; `done`
                (bool), whether the episode ends there. With length 0 and `done`, an open episode is
                truncated at its current state; with length 0 otherwise, nothing happens.

        Raises:
            ValueError: n transitions and the state after them do not fit the replay, an array is
                missing, or its shape is wrong.
        """
        rows, size = self.rows, self.rows.size
        spec = Spec.of(rows.fields)
        check_tree(transitions, {'actions': (..., *spec.shapes('actions'))})
        num = len(transitions['actions'])
        check_tree(transitions, {name: spec.shapes(name, num) for name in spec.transition})
        check_tree(
            transitions, {'next_observation': spec.shapes('observations'), 'length': (), 'done': ()}
        )
        if num + 1 > size:
            raise ValueError(
                f'{num} transitions do not fit a replay with room for {size} online rows; '
                'make it with begin_online(data, num_transitions).'
            )
        length = jnp.asarray(transitions['length'])
        is_open = self.episode_is_open | (length > 0)
        done = jnp.asarray(transitions['done'], bool) & is_open
        offset = jnp.arange(num + 1)
        # Row `length` holds the current state: final if done, else the next `add` rewrites it.
        slots = (rows.num_rows + offset) % size
        slots = jnp.where((offset <= length) & (length > 0), slots, size)

        def write(storage, values, last):
            values = jnp.concatenate(
                [values.astype(storage.dtype), last.astype(storage.dtype)[None]]
            )
            is_last = (offset == length).reshape((-1,) + (1,) * (values.ndim - 1))
            return storage.at[slots].set(jnp.where(is_last, last, values), mode='drop')

        # The row of a final state has no action; its other entries are never read.
        final = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), rows.fields)
        final['observations'] = jax.tree.map(jnp.asarray, transitions['next_observation'])
        start_slots = (rows.num_starts + offset) % size
        start_slots = jnp.where(offset < length, start_slots, size)
        episode = data.num_episodes + rows.num_episodes
        new = self.replace(
            rows=Rows(
                fields=jax.tree.map(
                    write, rows.fields, {name: transitions[name] for name in rows.fields}, final
                ),
                episode_ids=rows.episode_ids.at[slots].set(episode, mode='drop'),
                starts=rows.starts.at[start_slots].set(self._next(data) + offset, mode='drop'),
                num_rows=rows.num_rows + length + done,
                num_starts=rows.num_starts + length,
                num_episodes=rows.num_episodes + done,
            ),
            episode_is_open=is_open & ~done,
        )
        # Starts are in the order of writing, so the oldest expire first.
        oldest = self._start(data, self.num_dropped + offset)
        too_old = oldest < new._next(data) + new.episode_is_open - self.capacity
        return new.replace(
            num_dropped=self.num_dropped + jnp.sum(too_old & (offset < self.num_starts(data)))
        )

    def sample(
        self,
        data: Rows,
        rng: jax.Array,
        batch_size: int,
        horizon: int,
        discount: float,
        frame_stack: int = 1,
    ) -> Batch:
        """Draws chunks whose first rows are uniform over the rows that hold an action.

        A chunk that crosses the end of its episode keeps its valid prefix: later actions are zeros,
        later rewards and masks are ignored, and the next observation is the episode's last state.
        So a chunk never contains anything from another episode.

        With an `offline_ratio`, the first round(offline_ratio · B) chunks come from the data set
        and the others from online transitions.

        Returns:
            `observations [B, ...]`, `actions [B, h, d_a]`, `rewards [B]` (discounted sum over the
            chunk), `masks [B]` (0 if the task terminated within it), `next_observations [B, ...]`
            and `valid [B, h]` (1 while the chunk is inside its episode). Further entries of the
            transition are `[B, h, ...]`, zeros after the end. Images show `frame_stack` frames.
        """
        start = self._start(data, self._draw(data, rng, batch_size))
        numbers = start[:, None] + jnp.arange(horizon + 1)
        episode_ids = self._read(data.episode_ids, self.rows.episode_ids, data, numbers)
        written = numbers < self._next(data) + self.episode_is_open
        valid = written[:, 1:] & (episode_ids[:, 1:] == episode_ids[:, :1])
        steps = numbers[:, :-1]

        def read(name, numbers=steps):
            return jax.tree.map(
                lambda offline, online: self._read(offline, online, data, numbers),
                data.fields[name],
                self.rows.fields[name],
            )

        def where_valid(values):
            mask = valid.reshape(valid.shape + (1,) * (values.ndim - 2))
            return jnp.where(mask, values, jnp.zeros((), values.dtype))

        discounts = discount ** jnp.arange(horizon, dtype=jnp.float32)
        others = set(data.fields) - {'observations', 'rewards', 'masks'}
        return {name: jax.tree.map(where_valid, read(name)) for name in sorted(others)} | {
            'observations': self._observe(data, start, frame_stack),
            'rewards': jnp.sum(where_valid(discounts * read('rewards')), axis=1),
            'masks': jnp.prod(jnp.where(valid, read('masks'), 1.0), axis=1),
            'next_observations': self._observe(data, start + jnp.sum(valid, axis=1), frame_stack),
            'valid': valid.astype(jnp.float32),
        }

    def _observe(self, data: Rows, number: jax.Array, frame_stack: int) -> Any:
        """Returns the observations of rows `[B]`, images as the episode's last frames.

        Frames are stacked along the channels, the newest last. The episode's first frame stands in
        for those before it.
        """

        def episode(number):
            return self._read(data.episode_ids, self.rows.episode_ids, data, number)

        frames = [number]
        for i in range(1, frame_stack):
            earlier = jnp.maximum(number - i, 0)
            frames.insert(0, jnp.where(episode(earlier) == episode(number), earlier, frames[0]))

        def observe(offline, online):
            if frame_stack == 1 or not is_image(
                jax.ShapeDtypeStruct(offline.shape[1:], offline.dtype)
            ):
                return self._read(offline, online, data, number)
            return jnp.concatenate([self._read(offline, online, data, x) for x in frames], axis=-1)

        return jax.tree.map(observe, data.fields['observations'], self.rows.fields['observations'])

    def _draw(self, data: Rows, rng: jax.Array, num: int) -> jax.Array:
        """Draws indices into the list of all rows that hold an action."""
        if self.offline_ratio is None:
            return self.num_dropped + draw_integers(rng, num, self.num_starts(data))
        first_online = jnp.maximum(self.num_dropped, data.num_starts)
        num_online = data.num_starts + self.rows.num_starts - first_online
        is_offline = (jnp.arange(num) < round(self.offline_ratio * num)) | (num_online == 0)
        choices = jnp.where(is_offline, data.num_starts, num_online)
        return jnp.where(is_offline, 0, first_online) + draw_integers(rng, num, choices)

    def _next(self, data: Rows) -> jax.Array:
        """Returns the number of the row written next."""
        return data.num_rows + self.rows.num_rows

    def _start(self, data: Rows, index: jax.Array) -> jax.Array:
        """Returns the numbers of rows that hold an action, by their index among all such rows."""
        later = (index - data.num_starts) % self.rows.size
        earlier = jnp.minimum(index, data.size - 1)
        return jnp.where(index < data.num_starts, data.starts[earlier], self.rows.starts[later])

    def _read(
        self, offline: jax.Array, online: jax.Array, data: Rows, number: jax.Array
    ) -> jax.Array:
        """Returns rows `number` of an array that `data` and `self.rows` both have."""
        earlier = offline[jnp.minimum(number, data.size - 1)]
        later = online[(number - data.num_rows) % self.rows.size]
        is_offline = number < data.num_rows
        shape = is_offline.shape + (1,) * (earlier.ndim - is_offline.ndim)
        return jnp.where(is_offline.reshape(shape), earlier, later)


def draw_integers(rng: jax.Array, num: int, below: jax.Array) -> jax.Array:
    """Draws `num` integers uniformly from 0 to `below` − 1, int32.

    `below` is a scalar, or `[num]` for a bound per integer.

    Each is ⌊u · below⌋ for a number u of 64 random bits, so probabilities differ by less than
    below / 2⁶⁴, relatively. With 32 bits, as in `jax.random.randint`, they would differ by 1.9%
    for a data set of 80M rows.
    """
    high, low = jax.random.bits(rng, (2, num), jnp.uint32)
    return scale_bits(high, low, below.astype(jnp.uint32)).astype(jnp.int32)


def scale_bits(high: jax.Array, low: jax.Array, below: jax.Array) -> jax.Array:
    """Returns (2³² high + low) · below / 2⁶⁴, rounded down, for arrays of uint32."""
    middle = high * below
    carry = middle + jax.lax.mulhi(low, jnp.broadcast_to(below, low.shape)) < middle
    return jax.lax.mulhi(high, jnp.broadcast_to(below, high.shape)) + carry.astype(jnp.uint32)
