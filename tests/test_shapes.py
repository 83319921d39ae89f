"""Errors for wrong shapes."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from utils.shapes import check_same_shape, check_shape, check_shapes


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


def test_all_arrays_of_a_dict_must_be_there_and_be_arrays():
    axes = {'x': '[B]', 'y': '[B, d]'}
    check_shapes({'x': jnp.zeros(3), 'y': jnp.zeros((3, 2)), 'more': 0}, axes, B=3)
    with pytest.raises(ValueError, match=r"y is missing: must be \[B, d\]; found \['x'\]"):
        check_shapes({'x': jnp.zeros(3)}, axes)
    with pytest.raises(ValueError, match=r'y has shape \(4, 2\): must be \[B, d\] with B=3'):
        check_shapes({'x': jnp.zeros(3), 'y': jnp.zeros((4, 2))}, axes, B=3)
    with pytest.raises(ValueError, match=r'x is a list: must be an array \[B\]'):
        check_shapes({'x': [0.0], 'y': jnp.zeros((3, 2))}, axes)


def test_two_arrays_must_have_the_same_shape():
    check_same_shape('mask', jnp.zeros((4, 2)), 'samples', jnp.ones((4, 2)))
    with pytest.raises(ValueError, match='mask has shape') as error:
        check_same_shape('mask', jnp.zeros((4, 1)), 'samples', jnp.ones((4, 2)))
    assert str(error.value) == 'mask has shape (4, 1): must be that of samples, (4, 2)'


def test_under_vmap_a_shape_is_that_of_one_example():
    def total(x):
        check_shape('x', x, '[D]', D=3)
        return x.sum()

    assert jax.vmap(total)(jnp.ones((5, 3))).shape == (5,)
    with pytest.raises(ValueError, match=r'x has shape \(\): must be \[D\] with D=3'):
        jax.vmap(total)(jnp.ones(3))
