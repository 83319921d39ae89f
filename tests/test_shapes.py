"""What a wrong shape is answered with."""

import jax
import jax.numpy as jnp
import pytest

from utils.shapes import check_same_shape, check_shape, check_shapes


@pytest.mark.parametrize(
    ('shape', 'axes', 'sizes'),
    [
        ((16,), '[B]', {'B': 16}),
        ((16, 4, 2), '[B, h, d_a]', {'h': 4, 'd_a': 2}),
        ((3,), '[..., d_s]', {'d_s': 3}),
        ((5, 2, 3), '[..., d_s]', {'d_s': 3}),
        ((5, 0, 2), '[B, M, D]', {}),
        ((), '[]', {}),
    ],
)
def test_a_right_shape_passes(shape, axes, sizes):
    check_shape('x', jnp.zeros(shape), axes, **sizes)


@pytest.mark.parametrize(
    ('shape', 'axes', 'sizes', 'message'),
    [
        ((16, 1), '[B]', {'B': 16}, 'x has shape (16, 1): must be [B] with B=16'),
        ((4,), '[..., d_s]', {'d_s': 3}, 'x has shape (4,): must be [..., d_s] with d_s=3'),
        ((), '[..., d_s]', {'d_s': 3}, 'x has shape (): must be [..., d_s] with d_s=3'),
        ((2, 3), '[B, M, D]', {}, 'x has shape (2, 3): must be [B, M, D]'),
        ((1,), '[]', {}, 'x has shape (1,): must be []'),
        (
            (2, 3, 4),
            '[B, P, D]',
            {'B': 2, 'D': 5},
            'x has shape (2, 3, 4): must be [B, P, D] with B=2, D=5',
        ),
    ],
)
def test_a_wrong_shape_is_named_in_one_line_with_what_it_must_be(shape, axes, sizes, message):
    with pytest.raises(ValueError, match='x has shape') as error:
        check_shape('x', jnp.zeros(shape), axes, **sizes)
    assert str(error.value) == message


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
