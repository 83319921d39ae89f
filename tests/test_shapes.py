"""Errors for wrong shapes."""

import jax
import jax.numpy as jnp
import pytest

from utils.shapes import check_shape


def test_under_vmap_a_shape_is_that_of_one_example():
    def total(x):
        check_shape('x', x, '[D]', D=3)
        return x.sum()

    assert jax.vmap(total)(jnp.ones((5, 3))).shape == (5,)
    with pytest.raises(ValueError, match=r'x has shape \(\): must be \[D\] with D=3'):
        jax.vmap(total)(jnp.ones(3))
