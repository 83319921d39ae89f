"""The fused loop does what the updates one by one do, and compiles once."""

from functools import partial

import jax
import numpy as np
import pytest

from agents import dfp
from training.updates import act, averages, group_size, update_many, zero_totals
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


def make(seed=0):
    config = dfp.get_config()
    config.update(actor_hidden_dims=(16,), critic_hidden_dims=(16,), batch_size=8)
    return dfp.DFPAgent.create(seed, 3, 2, config, 3, 0.99)


def make_stacked(data, num_seeds=1):
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
        batch = Replay.create(data, 50).sample(data, sample_rng, 8, 3, 0.99)
        expected, info = expected.replace(rng=rng).update(batch)
        infos.append(info)
    agents, replays, _, totals = make_stacked(data)
    agents, totals = update_many(agents, replays, data, 3, totals)
    assert_close(unstack(agents, 0), expected)
    (logged,) = averages(totals)
    assert set(logged) == set(infos[0])
    for name, value in logged.items():
        mean = np.mean([info[name] for info in infos])
        np.testing.assert_allclose(value, mean, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('num_updates', [7, np.array([7, 4, 9])], ids=['all', 'each'])
def test_updates_in_groups_are_the_updates_one_by_one(data, num_updates):
    """Groups of 3, and what is left over: one by one, for each seed as often as it is due."""
    results = []
    for group in (1, 3):
        agents, replays, _, totals = make_stacked(data, num_seeds=3)
        results.append(update_many(agents, replays, data, num_updates, totals, group))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert results[1][1]['updates'].tolist() == np.broadcast_to(num_updates, 3).tolist()


def loops(jaxpr, depth=0):
    """Yields the loops of a program, each with the number of loops around it."""
    has_equations = lambda x: hasattr(x, 'eqns')  # noqa: E731
    for eqn in jaxpr.eqns:
        is_loop = eqn.primitive.name in ('while', 'scan')
        if is_loop:
            yield depth, eqn
        for each in jax.tree.leaves(list(eqn.params.values()), is_leaf=has_equations):
            if has_equations(each):
                yield from loops(getattr(each, 'jaxpr', each), depth + is_loop)


def test_a_group_is_a_loop_of_constant_length_inside_one_that_all_seeds_share(data):
    agents, replays, _, totals = make_stacked(data, num_seeds=2)
    many = partial(update_many, group=5)
    jaxpr = jax.make_jaxpr(many)(agents, replays, data, np.array([12, 10]), totals).jaxpr
    found = list(loops(jaxpr))
    outer, rest = (eqn for depth, eqn in found if depth == 0)
    group = next(eqn for depth, eqn in found if depth == 1)
    assert (group.primitive.name, group.params['length']) == ('scan', 5)
    assert outer.params['cond_jaxpr'].in_avals[0].shape == ()
    assert rest.primitive.name == 'while'


def test_on_a_cpu_there_is_no_second_copy_of_the_update(data):
    assert group_size(jax.devices('cpu')[0], 5) == 1
    agents, replays, _, totals = make_stacked(data)
    jaxpr = jax.make_jaxpr(update_many)(agents, replays, data, 7, totals).jaxpr
    assert [depth for depth, _ in loops(jaxpr)].count(0) == 1


def test_no_updates_change_nothing(data):
    agents, replays, _, totals = make_stacked(data)
    agents, totals = update_many(agents, replays, data, 0, totals)
    jax.tree.map(np.testing.assert_array_equal, unstack(agents, 0), make())
    assert float(totals['updates'][0]) == 0


def test_seeds_train_side_by_side_as_they_would_alone_and_as_often_as_each_is_due(data):
    agents, replays, _, totals = make_stacked(data, num_seeds=3)
    agents, totals = update_many(agents, replays, data, np.array([2, 0, 3]), totals)
    assert totals['updates'].tolist() == [2, 0, 3]
    for seed, num_updates in enumerate([2, 0, 3]):
        _, *alone_inputs, alone_totals = make_stacked(data)
        alone = stack([make(seed)])
        alone, alone_totals = update_many(alone, *alone_inputs, num_updates, alone_totals)
        assert_close(unstack(agents, seed), unstack(alone, 0))
        together, by_itself = averages(totals)[seed], averages(alone_totals)[0]
        for name, value in together.items():
            np.testing.assert_allclose(value, by_itself[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_seed_is_the_same_after_a_thousand_updates_beside_others(data):
    agents, replays, _, totals = make_stacked(data, num_seeds=3)
    agents, _ = update_many(agents, replays, data, 1000, totals)
    _, replays, _, totals = make_stacked(data)
    alone, _ = update_many(stack([make(2)]), replays, data, 1000, totals)
    together, alone = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree.params)])
        for tree in (unstack(agents, 2), unstack(alone, 0))
    )
    assert np.linalg.norm(together - alone) < 1e-5 * np.linalg.norm(alone)


@pytest.mark.parametrize('group', [1, 3])
def test_each_phase_compiles_once_whatever_the_number_of_updates(data, group):
    agents, replays, _, totals = make_stacked(data)
    rngs = jax.random.PRNGKey(0)[None]
    for _ in range(2):
        before = update_many._cache_size(), act._cache_size()
        for num_updates in (1, 4, 2):
            act(agents, np.zeros((1, 3), np.float32), rngs, np.array([num_updates]))
            agents, totals = update_many(agents, replays, data, num_updates, totals, group)
        assert update_many._cache_size() - before[0] <= 1
        assert act._cache_size() - before[1] <= 1
        agents = agents.begin_online()
        totals = zero_totals(agents, replays, data)
