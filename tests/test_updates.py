"""The fused loop does what the updates one by one do."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agents import make_spec

from agents import dfp
from training.updates import (
    DIAGNOSIS,
    Totals,
    diagnose,
    summaries,
    update_many,
    zero_totals,
)
from utils.replay import Replay, Rows
from utils.seeds import stack, unstack


def make_data():
    rng = np.random.default_rng(0)
    rows = {
        'observations': rng.normal(size=(40, 3)).astype(np.float32),
        'actions': rng.uniform(-1, 1, (40, 2)).astype(np.float32),
        'rewards': rng.normal(size=40).astype(np.float32),
        'masks': np.ones(40, np.float32),
        'terminals': np.arange(40) % 10 == 9,
    }
    return Rows.from_dataset(rows)


data = pytest.fixture(make_data, scope='module')
sample = jax.jit(Replay.sample, static_argnums=(3, 4, 5))


def make(seed=0):
    config = dfp.get_config()
    config.update(actor_hidden_dims=(16,), critic_hidden_dims=(16,), batch_size=8)
    return dfp.DFPAgent.create(seed, make_spec(3, 2), config, 3, 0.99)


def make_stacked(data, num_seeds=1, make=make):
    agents = stack([make(seed) for seed in range(num_seeds)])
    replays = stack([Replay.create(data, 50)] * num_seeds)
    agents, replays = jax.device_put((agents, replays), jax.devices()[0])
    return agents, replays, data, zero_totals(agents, replays, data)


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def test_fused_updates_are_the_updates_one_by_one(data):
    expected, infos = make(), []
    for _ in range(3):
        rng, sample_rng = jax.random.split(expected.rng)
        batch = sample(Replay.create(data, 50), data, sample_rng, 8, 3, 0.99)
        expected, info = expected.replace(rng=rng).update(batch)
        infos.append(info)
    agents, replays, _, totals = make_stacked(data)
    agents, totals = update_many(agents, replays, data, 3, totals)
    assert_close(unstack(agents, 0), expected)
    (logged,) = summaries(totals)
    assert logged.updates == 3
    assert set(logged.averages) == set(infos[0])
    for name, value in logged.averages.items():
        mean = np.mean([info[name] for info in infos])
        np.testing.assert_allclose(value, mean, rtol=1e-3, atol=1e-5, err_msg=name)


class Walk(flax.struct.PyTreeNode):
    """An agent that compiles in no time: a point that moves with its batches and with noise."""

    rng: jax.Array
    point: jax.Array

    def sample_batch(self, replay, data, rng):
        return replay.sample(data, rng, 8, 3, 0.99)

    def update(self, batch):
        rng, noise_rng = jax.random.split(self.rng)
        point = (
            0.9 * self.point + batch['actions'].mean((0, 1)) + jax.random.normal(noise_rng, (2,))
        )
        info = {'left': point[0], 'right': point[1], 'reward': batch['rewards'].mean()}
        return self.replace(rng=rng, point=point), info


def make_walk(seed):
    return Walk(jax.random.PRNGKey(seed), jnp.zeros(2))


@pytest.mark.parametrize(('num_seeds', 'each'), [(1, False), (3, True)])
def test_updates_in_groups_are_the_updates_one_by_one(data, num_seeds, each):
    ones = []
    for group in (1, 4):
        agents, replays, _, totals = make_stacked(data, num_seeds, make_walk)
        for number in (7, 0, 4, 9):
            numbers = np.array([number, 3, 12])[:num_seeds] if each else number
            agents, totals = update_many(agents, replays, data, numbers, totals, group)
        ones.append((agents, totals))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), *ones)
    counts = [summary.updates for summary in summaries(totals)]
    assert counts == ([20, 12, 48] if each else [20] * 3)[:num_seeds]


def test_seeds_train_side_by_side_as_they_would_alone_and_as_often_as_each_is_due(data):
    agents, replays, _, totals = make_stacked(data, num_seeds=3)
    agents, totals = update_many(agents, replays, data, np.array([2, 0, 3]), totals)
    first, idle, last = summaries(totals)
    jax.tree.map(np.testing.assert_array_equal, unstack(agents, 1), make(1))
    assert (idle.updates, {*idle.averages.values()}, idle.first_bad) == (0, {None}, None)
    for seed, num_updates, together in ((0, 2, first), (2, 3, last)):
        _, *alone_inputs, alone_totals = make_stacked(data)
        alone = stack([make(seed)])
        alone, alone_totals = update_many(alone, *alone_inputs, num_updates, alone_totals)
        assert_close(unstack(agents, seed), unstack(alone, 0))
        (by_itself,) = summaries(alone_totals)
        assert together.updates == by_itself.updates == num_updates
        for name, value in together.averages.items():
            np.testing.assert_allclose(
                value, by_itself.averages[name], rtol=1e-3, atol=1e-5, err_msg=name
            )


# ---- totals -------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=1)
def add_many(totals, num_updates, rng):
    """Adds the scalars of many updates: 'noise' around 1000, and 'one'."""

    def body(totals, rng):
        noise = 1000 + jax.random.normal(rng)
        return totals.add({'noise': noise, 'one': jnp.float32(1)}), noise

    return jax.lax.scan(body, totals, jax.random.split(rng, num_updates))


def summary_of(totals):
    """Returns what the totals of a single seed say."""
    return summaries(jax.tree.map(lambda x: np.asarray(x)[None], totals))[0]


def test_averages_do_not_depend_on_how_many_updates_there_are():
    totals, noise = add_many(Totals.zeros(['noise', 'one']), 300_000, jax.random.PRNGKey(0))
    averages = summary_of(totals).averages
    assert averages['noise'] == pytest.approx(np.asarray(noise, np.float64).mean(), rel=1e-7)
    assert averages['one'] == 1


def test_the_first_update_that_is_not_finite_is_known_with_its_scalars():
    nan, inf = float('nan'), float('inf')
    updates = [(1, 2, 3), (4, 5, 6), (7, -inf, nan), (nan, nan, nan), (1, 2, 3)]
    totals = Totals.zeros(['a', 'b', 'c'])
    for i, (a, b, c) in enumerate(updates):
        totals = totals.add({'c': c, 'a': a, 'b': b})
        summary = summary_of(totals)
        assert summary.updates == i + 1
        expected = (2, ('b', 'c')) if i >= 2 else (None, ())
        assert (summary.first_bad, summary.bad) == expected
    assert not np.isfinite(list(summary.averages.values())).any()


def test_each_seed_knows_when_it_first_drew_a_reward_that_is_not_finite(data):
    data = data.replace(fields=data.fields | {'rewards': data.fields['rewards'].at[5].set(jnp.inf)})
    agents, replays, _, totals = make_stacked(data, 2, make_walk)
    _, totals = update_many(agents, replays, data, 12, totals)
    for seed, summary in enumerate(summaries(totals)):
        key, finite = jax.random.PRNGKey(seed), []
        for _ in range(12):
            key, sample_key = jax.random.split(key)
            batch = sample(Replay.create(data, 50), data, sample_key, 8, 3, 0.99)
            key, _ = jax.random.split(key)
            finite.append(bool(np.isfinite(batch['rewards']).all()))
        assert (summary.first_bad, summary.bad) == (finite.index(False), ('reward',))


def test_a_diagnosis_is_of_each_seed_alone_and_changes_nothing(data):
    agents, replays, _, _ = make_stacked(data, 2)
    before = jax.tree.map(np.array, agents)
    found = jax.device_get(diagnose(agents, replays, data))
    jax.tree.map(np.testing.assert_array_equal, before, agents)
    for seed in range(2):
        agent = make(seed)
        batch_rng, rng = jax.random.split(jax.random.fold_in(agent.rng, DIAGNOSIS))
        batch = sample(Replay.create(data, 50), data, batch_rng, 8, 3, 0.99)
        for name, value in jax.jit(type(agent).diagnose)(agent, batch, rng).items():
            np.testing.assert_allclose(found[name][seed], value, rtol=1e-4, err_msg=name)
