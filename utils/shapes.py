"""Shape checks for a caller's arrays.

Shapes are known while a function is traced, so a check runs once per compilation and costs nothing
at run time. Under `vmap` it sees the shape of one example.
"""

from collections.abc import Mapping
from typing import Any

import chex


def check_shape(name: str, array: Any, axes: str, **sizes: int) -> None:
    """Raises ValueError unless an array has the given axes.

    Args:
        name: of the array, for the error.
        array: anything with a shape.
        axes: the names of the axes as in docstrings, '[B, h, d_a]' or '[..., d_s]', or '[]' for a
            scalar.
        **sizes: required sizes of axes, by name. The other axes may have any size.

    Raises:
        ValueError: the shape differs, as in 'rewards has shape (16, 1): must be [B] with B=16'.
    """
    names = axes.strip('[]').split(', ') if axes != '[]' else []
    expected = [... if axis == '...' else sizes.get(axis) for axis in names]
    known = ', '.join(f'{axis}={sizes[axis]}' for axis in names if axis in sizes)
    _assert_shape(name, array, expected, f'{axes} with {known}' if known else axes)


def check_shapes(arrays: Mapping[str, Any], axes: Mapping[str, str], **sizes: int) -> None:
    """Raises ValueError unless a dict has all arrays, with the given axes.

    Args:
        arrays: by name; more than those in `axes` are allowed.
        axes: of each required array, as in `check_shape`.
        **sizes: required sizes of axes, by name.

    Raises:
        ValueError: an array is missing, or its shape differs.
    """
    for name, wanted in axes.items():
        if name not in arrays:
            raise ValueError(f'{name} is missing: must be {wanted}; found {sorted(arrays)}')
        check_shape(name, arrays[name], wanted, **sizes)


def check_same_shape(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raises ValueError unless two arrays have the same shape.

    Args:
        name: of the array to check, for the error.
        array: the array to check.
        other_name: of the array with the required shape.
        other: the array with the required shape.

    Raises:
        ValueError: the shapes differ, as in 'mask has shape (16,): must be that of samples,
            (16, 8)'.
    """
    shape = tuple(other.shape)
    _assert_shape(name, array, shape, f'that of {other_name}, {shape}')


def _assert_shape(name, array, expected, wanted):
    if not hasattr(array, 'shape'):
        raise ValueError(f'{name} is a {type(array).__name__}: must be an array {wanted}')
    try:
        chex.assert_shape(array, expected)
    except AssertionError:  # chex names neither the array nor the axes
        message = f'{name} has shape {tuple(array.shape)}: must be {wanted}'
        raise ValueError(message) from None
