"""Seeds as an axis: what is shared stays shared, and devices share out the seeds."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from utils.seeds import over_seeds, share_out


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
