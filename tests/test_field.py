"""The picture of the field."""

import pathlib
from functools import partial

import jax
import numpy as np

from agents.drifting import mean_shift_field
from figures import field

ROOT = pathlib.Path(__file__).parent.parent


def test_the_two_parts_are_the_field():
    kernel = 'laplace'
    x, positives = (field.sample_old_policy(jax.random.PRNGKey(i), n) for i, n in ((0, 20), (1, 4)))
    whole = jax.jit(partial(mean_shift_field, bandwidths=(0.3,), kernel=kernel))
    attraction, repulsion = field.parts(x, positives, kernel, 0.3)
    expected = whole(x[None], positives[None])[0][0]
    np.testing.assert_allclose(attraction + repulsion, expected, atol=1e-5)
    to_one, _ = field.parts(x, positives[:1], kernel, 0.3)
    np.testing.assert_allclose(to_one, positives[:1] - x, atol=1e-6)


def test_the_same_seed_draws_the_same_and_another_one_does_not(tmp_path):
    contents = []
    for i, seed in enumerate((0, 0, 1)):
        path = tmp_path / f'{i}.png'
        field.draw(path, seed, 'gaussian', 0.4, (4, 4, 3))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_the_readmes_picture_is_small():
    assert (ROOT / 'docs' / 'field.png').stat().st_size < 300_000
