"""Shape checks for arrays that a caller passes in.

Shapes are known while a function is traced, so a check runs once per compilation and the compiled
program holds nothing of it. Under `vmap` it sees the shape of one example.
"""

from collections.abc import Mapping
from typing import Any

import chex


def check_shape(name: str, array: Any, axes: str, **sizes: int) -> None:
    """Raises ValueError unless an array has the given axes.

    Args:
        name: of the array, for the error.
        array: anything with a shape.
        axes: the names of the axes as docstrings write them, '[B, h, d_a]' or '[..., d_s]', or '[]'
            for a scalar.
        **sizes: the size that an axis must have, by its name. The other axes may have any size.

    Raises:
        ValueError: the shape is another one, as in 'rewards has shape (16, 1): must be [B] with
            B=16'.
    """
    names = axes.strip('[]').split(', ') if axes != '[]' else []
    expected = [... if axis == '...' else sizes.get(axis) for axis in names]
    known = ', '.join(f'{axis}={sizes[axis]}' for axis in names if axis in sizes)
    _assert_shape(name, array, expected, f'{axes} with {known}' if known else axes)


def check_shapes(arrays: Mapping[str, Any], axes: Mapping[str, str], **sizes: int) -> None:
    """Raises ValueError unless all arrays of a dict are there, and have the given axes.

    Args:
        arrays: by their names; there may be others besides.
        axes: of each array that must be there, as `check_shape` takes them.
        **sizes: the size that an axis must have, by its name.

    Raises:
        ValueError: an array is missing, or its shape is another one.
    """
    for name, wanted in axes.items():
        if name not in arrays:
            raise ValueError(f'{name} is missing: must be {wanted}; there are {sorted(arrays)}')
        check_shape(name, arrays[name], wanted, **sizes)


def check_same_shape(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raises ValueError unless two arrays have the same shape.

    Args:
        name: of the array that is checked, for the error.
        array: the array that is checked.
        other_name: of the array that sets the shape.
        other: the array that sets the shape.

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
