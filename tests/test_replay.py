"""The replay against a slow, obvious one: a list of rows in the order they were written."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from utils.replay import Replay, Rows, draw_integers, first_transitions, scale_bits
from utils.seeds import stack

DISCOUNT = 0.9
MAX_LENGTH = 4  # transitions in one `add`


class ListBuffer:
    """All rows ever written; the newest `capacity` of them are alive."""

    def __init__(self, rows, capacity):
        self.capacity, self.rows, self.episode = capacity, [], 0
        self.is_open = False
        for i in range(len(rows['terminals'])):
            final = bool(rows['terminals'][i])
            values = [rows[k][i] for k in ('observations', 'actions', 'rewards', 'masks')]
            self.rows.append((self.episode, not final, *values))
            self.episode += final

    def add(self, t):
        if not t['length']:
            self.episode += self.is_open and t['done']
            self.is_open &= not t['done']
            return
        if self.is_open:
            self.rows.pop()
        for i in range(t['length']):
            values = [t[k][i] for k in ('observations', 'actions', 'rewards', 'masks')]
            self.rows.append((self.episode, True, *values))
        self.rows.append((self.episode, False, t['next_observation'], None, None, None))
        self.is_open = not t['done']
        self.episode += t['done']

    def chunks(self, horizon):
        """What may be sampled, by the (unique) first number of the start's observation."""
        alive = self.rows[-self.capacity :]
        found = {}
        for i, (episode, has_action, observation, *_) in enumerate(alive):
            if not has_action:
                continue
            steps = [row for row in alive[i : i + horizon] if row[0] == episode and row[1]]
            rewards = sum(DISCOUNT**j * row[4] for j, row in enumerate(steps))
            actions = [row[3] for row in steps] + [np.zeros(2)] * (horizon - len(steps))
            found[float(observation[0])] = {
                'observations': observation,
                'actions': np.array(actions),
                'rewards': rewards,
                'masks': float(all(row[5] for row in steps)),
                'next_observations': alive[i + len(steps)][2],
                'valid': np.arange(horizon) < len(steps),
            }
        return found


class Experience:
    """Makes transitions with numbered observations, so that a sample tells where it is from."""

    def __init__(self, seed=0):
        self.count, self.rng = 0, np.random.default_rng(seed)

    def states(self, num):
        self.count += num
        numbers = np.arange(self.count - num, self.count, dtype=np.float32)
        return np.stack([numbers, -numbers, numbers / 2], axis=1)

    def episodes(self, lengths):
        parts = []
        for length in lengths:
            terminals = np.arange(length + 1) == length
            parts.append(self.transitions(self.states(length + 1)) | {'terminals': terminals})
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}

    def transitions(self, observations):
        n = len(observations)
        return {
            'observations': observations,
            'actions': self.rng.uniform(-1, 1, (n, 2)).astype(np.float32),
            'rewards': self.rng.normal(size=n).astype(np.float32),
            'masks': (self.rng.uniform(size=n) < 0.7).astype(np.float32),
        }

    def chunk(self, state, length, done):
        """A padded chunk that starts at `state`; returns it and the state it leads to."""
        states = np.concatenate([state[None], self.states(length)])
        padded = np.full((MAX_LENGTH, 3), np.nan, np.float32)
        padded[:length] = states[:length]
        chunk = self.transitions(padded)
        return chunk | {'length': length, 'done': done, 'next_observation': states[-1]}


begin_online = jax.jit(Replay.begin_online, static_argnums=(2, 3))
num_starts = jax.jit(Replay.num_starts)
add = jax.jit(Replay.add)
sample = jax.jit(Replay.sample, static_argnums=(3, 4, 5))
scaled = jax.jit(scale_bits)


def assert_samples_match(replay, data, reference, horizon, seed=0, batch_size=64):
    expected = reference.chunks(horizon)
    assert num_starts(replay, data) == len(expected)
    batch = sample(replay, data, jax.random.PRNGKey(seed), batch_size, horizon, DISCOUNT)
    batch = {k: np.asarray(v) for k, v in batch.items()}
    for i, start in enumerate(batch['observations'][:, 0]):
        for name, value in expected[float(start)].items():
            np.testing.assert_allclose(batch[name][i], value, rtol=1e-5, atol=1e-6, err_msg=name)
    return batch, expected


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    capacity=st.sampled_from([12, 40]),
    adds=st.lists(st.tuples(st.integers(0, MAX_LENGTH), st.booleans()), max_size=25),
    horizon=st.sampled_from([1, 3]),
)
def test_any_history_gives_the_samples_of_a_plain_list(lengths, capacity, adds, horizon):
    experience = Experience()
    rows = experience.episodes(lengths)
    assume(len(rows['terminals']) + 2 <= capacity)
    data = Rows.from_dataset(rows, capacity - 2)  # one shape, so that few programs are compiled
    replay = Replay.create(data, capacity - len(lengths))
    assert replay.capacity == capacity
    replay = begin_online(replay, data, 100)
    reference = ListBuffer(rows, replay.capacity)
    state = experience.states(1)[0]
    for length, done in adds:
        chunk = experience.chunk(state, length, done)
        replay = add(replay, data, chunk)
        reference.add(chunk)
        state = experience.states(1)[0] if done else chunk['next_observation']
        assert num_starts(replay, data) == len(reference.chunks(horizon))
    assert_samples_match(replay, data, reference, horizon)


def test_an_episode_longer_than_the_buffer_does_not_cross_the_write_head():
    experience = Experience()
    rows = experience.episodes([1])
    data = Rows.from_dataset(rows)
    replay = begin_online(Replay.create(data, 8), data, 100)
    reference = ListBuffer(rows, replay.capacity)
    state = experience.states(1)[0]
    for _ in range(10):
        chunk = experience.chunk(state, MAX_LENGTH, done=False)
        replay, state = add(replay, data, chunk), chunk['next_observation']
        reference.add(chunk)
        assert_samples_match(replay, data, reference, horizon=3)


def test_starts_are_uniform_however_short_the_episodes():
    rows = Experience().episodes([1, 1, 30, 1, 2])
    data = Rows.from_dataset(rows)
    replay = Replay.create(data, 40)
    batch = sample(replay, data, jax.random.PRNGKey(0), 35_000, 1, DISCOUNT)
    _, counts = np.unique(np.asarray(batch['observations'][:, 0]), return_counts=True)
    assert len(counts) == 35
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_rows_of_a_large_range_are_as_likely_as_each_other():
    """χ² of ten equal parts. Draws of 32 bits would give the low ones up to 1.5 times as many."""
    below = 3 << 29
    drawn = jax.jit(draw_integers, static_argnums=1)(
        jax.random.PRNGKey(0), 200_000, np.int32(below)
    )
    assert drawn.dtype == np.int32
    assert 0 <= drawn.min() <= drawn.max() < below
    counts = np.bincount(np.asarray(drawn, np.int64) * 10 // below, minlength=10)
    assert ((counts - 20_000) ** 2 / 20_000).sum() < 40


@settings(max_examples=200, deadline=None)
@given(
    bits=st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**32 - 1, 2**32, 2**64 - 1]),
    below=st.integers(1, 2**31 - 1),
)
def test_bits_are_scaled_exactly(bits, below):
    high, low = np.array([bits >> 32], np.uint32), np.array([bits & (2**32 - 1)], np.uint32)
    assert int(scaled(high, low, np.uint32(below))[0]) == bits * below >> 64


@pytest.mark.parametrize('ratio', [0.0, 0.3, 1.0])
def test_a_batch_has_a_given_part_of_the_data_set_whatever_is_overwritten(ratio):
    experience = Experience()
    rows = experience.episodes([5, 4])
    data = Rows.from_dataset(rows)
    replay = begin_online(Replay.create(data, 1), data, 100, ratio)
    assert replay.capacity == 13

    def draw():
        batch = sample(replay, data, jax.random.PRNGKey(0), 500, 2, DISCOUNT)
        return np.asarray(batch['observations'][:, 0])

    offline = {*range(5), *range(6, 10)}
    assert set(draw().tolist()) == offline  # there is nothing else yet
    online = []
    for _ in range(6):
        state = experience.states(1)[0]
        chunk = experience.chunk(state, MAX_LENGTH, done=True)
        online += chunk['observations'][:, 0].tolist()
        replay = add(replay, data, chunk)
        drawn = draw()
        num = round(500 * ratio)
        alive = online[-10:]  # two whole episodes of five rows, and two transitions more
        assert set(drawn[:num].tolist()) == (offline if num else set())
        assert set(drawn[num:].tolist()) == (set(alive) if num < 500 else set())
    assert not set(online[:-10]) & set(drawn.tolist())


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), proportion=st.floats(0.01, 1.0))
@settings(deadline=None)
def test_the_first_part_of_a_data_set_has_its_first_transitions(lengths, proportion):
    rows = Experience().episodes(lengths)
    num = int(proportion * sum(lengths))
    if not num:
        with pytest.raises(ValueError, match=f'leaves none of {sum(lengths)} transitions'):
            first_transitions(rows, proportion)
        return
    part = first_transitions(rows, proportion)
    starts = np.flatnonzero(~rows['terminals'])[:num]
    np.testing.assert_array_equal(np.flatnonzero(~part['terminals']), starts)
    for name in ('observations', 'actions', 'rewards', 'masks'):
        np.testing.assert_array_equal(part[name], rows[name][: len(part[name])])
    assert len(part['rewards']) == starts[-1] + 2
    assert part['terminals'][-1]


def test_another_shard_of_the_same_size_takes_the_place_of_the_data():
    experience = Experience()
    replay = Replay.create(Rows.from_dataset(experience.episodes([6, 6]), 16), 20)
    rows = experience.episodes([3, 2])
    data = Rows.from_dataset(rows, 16)
    assert_samples_match(replay, data, ListBuffer(rows, replay.capacity), horizon=3)
    chunk = experience.chunk(experience.states(1)[0], 2, done=True)
    reference = ListBuffer(rows, replay.capacity)
    reference.add(chunk)
    replay = add(begin_online(replay, data, 10), data, chunk)
    assert_samples_match(replay, data, reference, horizon=3)
    with pytest.raises(ValueError, match='31 rows, more than size=16'):
        Rows.from_dataset(experience.episodes([30]), 16)


def test_seeds_share_the_data_set_and_have_online_rows_of_their_own():
    experience = Experience()
    data = Rows.from_dataset(experience.episodes([4, 3]))
    alone = begin_online(Replay.create(data, 12), data, 30)
    both = stack([alone, alone])
    chunks = [experience.chunk(experience.states(1)[0], n, done) for n, done in ((3, True), (1, 0))]
    stacked = jax.tree.map(lambda *x: np.stack(x), *chunks)
    add_each = jax.jit(jax.vmap(Replay.add, in_axes=(0, None, 0)))
    for _ in range(3):
        both = add_each(both, data, stacked)
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    draw = partial(Replay.sample, batch_size=64, horizon=2, discount=DISCOUNT)
    batches = jax.jit(jax.vmap(draw, in_axes=(0, None, 0)))(both, data, keys)
    for i, chunk in enumerate(chunks):
        expected = alone
        for _ in range(3):
            expected = add(expected, data, chunk)
        expected = sample(expected, data, keys[i], 64, 2, DISCOUNT)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), batches, expected)


def test_a_wrong_or_missing_array_is_refused_by_name():
    experience = Experience()
    rows = experience.episodes([7])
    data = Rows.from_dataset(rows)
    replay = begin_online(Replay.create(data, 20), data, 20)
    chunk = experience.chunk(experience.states(1)[0], 2, done=False)
    with pytest.raises(ValueError, match=r'rewards has shape \(8, 1\): must be \(8,\)'):
        Rows.from_dataset(rows | {'rewards': rows['rewards'][:, None]})
    with pytest.raises(ValueError, match='next_observation has shape'):
        add(replay, data, chunk | {'next_observation': np.zeros((4, 3), np.float32)})
    del rows['rewards'], chunk['masks']
    with pytest.raises(ValueError, match='rewards is missing'):
        Rows.from_dataset(rows)
    with pytest.raises(ValueError, match='masks is missing'):
        add(replay, data, chunk)
