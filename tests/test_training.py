"""The fused loop does what the updates one by one do, and compiles once."""

import jax
import numpy as np
import pytest

from agents import dfp
from main import stops
from utils.replay import ReplayBuffer
from utils.training import act, averages, train, zero_totals


@pytest.fixture(scope='module')
def buffer():
    rng = np.random.default_rng(0)
    rows = {
        'observations': rng.normal(size=(40, 3)).astype(np.float32),
        'actions': rng.uniform(-1, 1, (40, 2)).astype(np.float32),
        'rewards': rng.normal(size=40).astype(np.float32),
        'masks': np.ones(40, np.float32),
        'terminals': np.arange(40) % 10 == 9,
    }
    return ReplayBuffer.create(rows, 50)


def make():
    config = dfp.get_config()
    config.update(actor_hidden_dims=(16,), critic_hidden_dims=(16,), batch_size=8)
    return dfp.DFPAgent.create(0, 3, 2, config, 3, 0.99)


def test_fused_updates_are_the_updates_one_by_one(buffer):
    expected, infos = make(), []
    for _ in range(3):
        rng, sample_rng = jax.random.split(expected.rng)
        batch = buffer.sample(sample_rng, 8, 3, 0.99)
        expected, info = expected.replace(rng=rng).update(batch)
        infos.append(info)
    agent, totals = train(make(), buffer, 3, zero_totals(make(), buffer))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), agent, expected
    )
    logged = averages(totals)
    assert set(logged) == set(infos[0])
    for name, value in logged.items():
        mean = np.mean([info[name] for info in infos])
        np.testing.assert_allclose(value, mean, rtol=1e-3, atol=1e-5, err_msg=name)


def test_no_updates_change_nothing(buffer):
    agent, totals = train(make(), buffer, 0, zero_totals(make(), buffer))
    jax.tree.map(np.testing.assert_array_equal, agent, make())
    assert float(totals['updates']) == 0


def test_each_phase_compiles_once_whatever_the_number_of_updates(buffer):
    agent = make()
    for _ in range(2):
        before = train._cache_size(), act._cache_size()
        totals = zero_totals(agent, buffer)
        for num_updates in (1, 4, 2):
            act(agent, np.zeros(3, np.float32), jax.random.PRNGKey(0), num_updates)
            agent, totals = train(agent, buffer, num_updates, totals)
        assert train._cache_size() - before[0] <= 1
        assert act._cache_size() - before[1] <= 1
        agent = agent.begin_online()


@pytest.mark.parametrize(
    ('after', 'until', 'expected'),
    [
        (0, 4, []),
        (0, 5, [5]),
        (4, 12, [5, 7, 10]),
        (10, 10, []),
        (18, 23, [20, 21, 23]),
        (23, 23, []),
    ],
)
def test_stops_are_the_multiples_passed_and_the_end(after, until, expected):
    assert list(stops(after, until, [5, 7], end=23)) == expected
