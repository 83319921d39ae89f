"""Seeds as an axis: what is shared stays shared, and devices do not change results."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.seeds import over_seeds, share_out

TWO_DEVICES = """
import jax
import numpy as np
from small_agents import describe
from test_updates import make, make_data
from training import state
from training.loop import RunContext, learn
from training.updates import act, on_each_device, summaries
from training.config import RunConfig

jax.config.update('jax_num_cpu_devices', 2)
config = RunConfig(online_steps=20, start_training=0, horizon_length=3, num_seeds=3)
description = describe(make().config._asdict(), 3)
pending = {
    'observations': np.ones((3, 3, 3), np.float32),
    'actions': np.zeros((3, 3, 2), np.float32),
    'rewards': np.zeros((3, 3), np.float32),
    'masks': np.ones((3, 3), np.float32),
    'length': np.array([3, 0, 2]),
    'next_observation': np.ones((3, 3), np.float32),
    'done': np.array([True, False, False]),
}


def play(devices):
    data = [jax.device_put(make_data(), device) for device in devices]
    begun = state.create(description, list(range(3)), data, 50)
    begun = state.begin_online(begun, data, config)
    begun = begun.replace(rollout=begun.rollout.replace(pending=pending))
    run = RunContext(config, data, None, None, None, None, None)
    after = learn(begun, run, pending['length'])
    policies = [part.agents.policy() for part in after.seeds]
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(0), 3))
    chunks = on_each_device(act, policies, np.ones((3, 3), np.float32), keys, np.arange(3))
    devices = [part.agents.rng.device for part in after.seeds]
    rows = [each.averages for part in after.seeds for each in summaries(part.totals)]
    arrays, _ = state.to_arrays(after)
    return devices, (arrays, rows, chunks)


devices = jax.devices()
assert len(devices) == 2
_, alone = play(devices[:1])
used, spread = play(devices)
assert used == devices, used
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


@given(num_seeds=st.integers(1, 40), num_devices=st.integers(1, 16))
def test_every_seed_has_a_device_and_no_device_has_two_seeds_more_than_another(
    num_seeds, num_devices
):
    parts = share_out(num_seeds, num_devices)
    assert [i for part in parts for i in range(num_seeds)[part]] == list(range(num_seeds))
    sizes = [part.stop - part.start for part in parts]
    assert len(parts) == min(num_seeds, num_devices)
    assert min(sizes) >= max(sizes) - 1 >= 0


@pytest.mark.slow
def test_three_seeds_on_two_devices_compute_what_they_do_on_one():
    root = pathlib.Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, '-c', TWO_DEVICES],
        cwd=root,
        env=os.environ | {'PYTHONPATH': f'{root}:{root / "tests"}'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == 'equal\n', result.stderr[-2000:]
