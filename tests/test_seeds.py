"""Seeds as an axis: what is shared stays shared, and devices do not change results."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from utils.seeds import over_seeds, seed_mesh, stack, unstack

FOUR_DEVICES = """
import jax
import numpy as np
from small_agents import make
from test_training import make_buffer
from utils.evaluation import _act
from utils.seeds import place, seed_mesh, stack
from utils.training import act, add_transitions, averages, train, zero_totals

assert len(jax.devices()) == 4
transitions = {
    'observations': np.ones((4, 4, 3), np.float32),
    'actions': np.zeros((4, 4, 2), np.float32),
    'rewards': np.zeros((4, 4), np.float32),
    'masks': np.ones((4, 4), np.float32),
    'length': np.array([4, 2, 0, 3]),
    'next_observation': np.ones((4, 3), np.float32),
    'done': np.array([True, False, False, False]),
}


def play():
    agents = place(stack([make('dfp', seed) for seed in range(4)]), 0)
    buffers = make_buffer().replicate(4)
    buffers = place(buffers, buffers.seed_axes())
    agents, totals = train(agents, buffers, 3, zero_totals(agents, buffers))
    agents = agents.begin_online()
    buffers = buffers.begin_online(20)
    buffers = add_transitions(place(buffers, buffers.seed_axes()), transitions)
    agents, totals = train(agents, buffers, np.array([4, 2, 0, 3]), zero_totals(agents, buffers))
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    chunks = act(agents, np.ones((4, 3), np.float32), keys, np.arange(4))
    numbers = np.zeros((4, 2), np.int32)
    more = _act(agents, np.ones((4, 2, 3), np.float32), keys, numbers, numbers)
    return agents, averages(totals), chunks, more


alone = play()
with jax.set_mesh(seed_mesh(4)):
    spread = play()
leaf = jax.tree.leaves(spread[0].params)[0]
assert len(leaf.sharding.device_set) == 4, leaf.sharding
assert len(jax.tree.leaves(alone[0].params)[0].sharding.device_set) == 1
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, spread)
print('equal')
"""


def test_what_is_shared_is_not_stacked():
    function = over_seeds(lambda x, shared: (x + shared, shared.sum()), (0, None))
    for num_seeds in (1, 3):
        x, shared = jnp.arange(num_seeds * 2.0).reshape(num_seeds, 2), jnp.array([10.0, 20.0])
        first, second = function(x, shared)
        np.testing.assert_array_equal(first, x + shared)
        np.testing.assert_array_equal(second, [30.0] * num_seeds)


def test_unstacking_undoes_stacking():
    trees = [{'a': jnp.full(2, i), 'b': (jnp.int32(i),)} for i in range(3)]
    for i, tree in enumerate(trees):
        jax.tree.map(np.testing.assert_array_equal, unstack(stack(trees), i), tree)


@pytest.mark.parametrize(('num_seeds', 'num_devices'), [(1, 1), (4, 1)])
def test_the_mesh_has_no_more_devices_than_there_are(num_seeds, num_devices):
    assert seed_mesh(num_seeds).size == num_devices


def test_four_devices_compute_what_one_does():
    root = pathlib.Path(__file__).parent.parent
    environment = os.environ | {
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
        'PYTHONPATH': f'{root}:{root / "tests"}',
    }
    result = subprocess.run(
        [sys.executable, '-c', FOUR_DEVICES],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == 'equal\n', result.stderr[-2000:]
