"""Errors for wrong shapes."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from utils.shapes import check_shape


@pytest.mark.parametrize(
    ('shape', 'axes', 'sizes', 'right'),
    [
        ((16, 4, 2), '[B, h, d_a]', {'h': 4, 'd_a': 2}, True),
        ((5, 2, 3), '[..., d_s]', {'d_s': 3}, True),
        ((), '[]', {}, True),
        ((16, 1), '[B]', {'B': 16}, False),
        ((), '[..., d_s]', {'d_s': 3}, False),
        ((1,), '[]', {}, False),
    ],
)
def test_a_shape_is_right_or_named(shape, axes, sizes, right):
    with contextlib.nullcontext() if right else pytest.raises(ValueError, match=r'^x has shape'):
        check_shape('x', jnp.zeros(shape), axes, **sizes)


def test_under_vmap_a_shape_is_that_of_one_example():
    def total(x):
        check_shape('x', x, '[D]', D=3)
        return x.sum()

    assert jax.vmap(total)(jnp.ones((5, 3))).shape == (5,)
    with pytest.raises(ValueError, match=r'x has shape \(\): must be \[D\] with D=3'):
        jax.vmap(total)(jnp.ones(3))
