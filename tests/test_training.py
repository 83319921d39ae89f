"""The fused loop does what the updates one by one do, and compiles once."""

import jax
import numpy as np
import pytest

from agents import dfp
from main import stops
from utils.replay import ReplayBuffer, Rows
from utils.seeds import stack, unstack
from utils.training import act, averages, train, zero_totals


def make_buffer():
    rng = np.random.default_rng(0)
    rows = {
        'observations': rng.normal(size=(40, 3)).astype(np.float32),
        'actions': rng.uniform(-1, 1, (40, 2)).astype(np.float32),
        'rewards': rng.normal(size=40).astype(np.float32),
        'masks': np.ones(40, np.float32),
        'terminals': np.arange(40) % 10 == 9,
    }
    return ReplayBuffer.create(Rows.of_dataset(rows), 50)


buffer = pytest.fixture(make_buffer, scope='module')


def make(seed=0):
    config = dfp.get_config()
    config.update(actor_hidden_dims=(16,), critic_hidden_dims=(16,), batch_size=8)
    return dfp.DFPAgent.create(seed, 3, 2, config, 3, 0.99)


def make_stacked(buffer, num_seeds=1):
    agents, buffers = stack([make(seed) for seed in range(num_seeds)]), buffer.replicate(num_seeds)
    return agents, buffers, zero_totals(agents, buffers)


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def test_fused_updates_are_the_updates_one_by_one(buffer):
    expected, infos = make(), []
    for _ in range(3):
        rng, sample_rng = jax.random.split(expected.rng)
        batch = buffer.sample(sample_rng, 8, 3, 0.99)
        expected, info = expected.replace(rng=rng).update(batch)
        infos.append(info)
    agents, buffers, totals = make_stacked(buffer)
    agents, totals = train(agents, buffers, 3, totals)
    assert_close(unstack(agents, 0), expected)
    (logged,) = averages(totals)
    assert set(logged) == set(infos[0])
    for name, value in logged.items():
        mean = np.mean([info[name] for info in infos])
        np.testing.assert_allclose(value, mean, rtol=1e-3, atol=1e-5, err_msg=name)


def test_no_updates_change_nothing(buffer):
    agents, buffers, totals = make_stacked(buffer)
    agents, totals = train(agents, buffers, 0, totals)
    jax.tree.map(np.testing.assert_array_equal, unstack(agents, 0), make())
    assert float(totals['updates'][0]) == 0


def test_seeds_train_side_by_side_as_they_would_alone_and_as_often_as_each_is_due(buffer):
    agents, buffers, totals = make_stacked(buffer, num_seeds=3)
    agents, totals = train(agents, buffers, np.array([2, 0, 3]), totals)
    assert totals['updates'].tolist() == [2, 0, 3]
    for seed, num_updates in enumerate([2, 0, 3]):
        alone, alone_buffers, alone_totals = make_stacked(buffer)
        alone = stack([make(seed)])
        alone, alone_totals = train(alone, alone_buffers, num_updates, alone_totals)
        assert_close(unstack(agents, seed), unstack(alone, 0))
        together, by_itself = averages(totals)[seed], averages(alone_totals)[0]
        for name, value in together.items():
            np.testing.assert_allclose(value, by_itself[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_seed_is_the_same_after_a_thousand_updates_beside_others(buffer):
    agents, buffers, totals = make_stacked(buffer, num_seeds=3)
    agents, _ = train(agents, buffers, 1000, totals)
    alone, buffers, totals = make_stacked(buffer)
    alone, _ = train(stack([make(2)]), buffers, 1000, totals)
    together, alone = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree.params)])
        for tree in (unstack(agents, 2), unstack(alone, 0))
    )
    assert np.linalg.norm(together - alone) < 1e-5 * np.linalg.norm(alone)


def test_each_phase_compiles_once_whatever_the_number_of_updates(buffer):
    agents, buffers, totals = make_stacked(buffer)
    rngs = jax.random.PRNGKey(0)[None]
    for _ in range(2):
        before = train._cache_size(), act._cache_size()
        for num_updates in (1, 4, 2):
            act(agents, np.zeros((1, 3), np.float32), rngs, np.array([num_updates]))
            agents, totals = train(agents, buffers, num_updates, totals)
        assert train._cache_size() - before[0] <= 1
        assert act._cache_size() - before[1] <= 1
        agents = agents.begin_online()
        totals = zero_totals(agents, buffers)


def test_stops_are_the_multiples_of_the_intervals_and_the_end():
    assert list(stops([5, 7], 23)) == [5, 7, 10, 14, 15, 20, 21, 23]
    assert list(stops([5, 10], 10)) == [5, 10]
