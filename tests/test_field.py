"""The picture of the field."""

from functools import partial

import jax
import numpy as np

from agents.drifting import mean_shift_field
from figures import field


def test_the_two_parts_are_the_field():
    x, positives = (field.sample_old_policy(jax.random.PRNGKey(i), n) for i, n in ((0, 20), (1, 4)))
    whole = jax.jit(partial(mean_shift_field, bandwidths=(field.BANDWIDTH,)))
    attraction, repulsion = field.parts(x, positives)
    expected = whole(x[None], positives[None])[0][0]
    np.testing.assert_allclose(attraction + repulsion, expected, atol=1e-5)
    to_one, _ = field.parts(x, positives[:1])
    np.testing.assert_allclose(to_one, positives[:1] - x, atol=1e-6)


def test_the_same_seed_draws_the_same_and_another_one_does_not(tmp_path):
    contents = []
    for i, seed in enumerate((0, 0, 1)):
        path = tmp_path / f'{i}.png'
        field.draw(path, seed)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]
