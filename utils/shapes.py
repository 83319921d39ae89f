"""Shape checks for a caller's arrays.

Shapes are known while a function is traced, so a check runs once per compilation and costs nothing
at run time. Under `vmap` it sees the shape of one example.
"""

from typing import Any

import chex


def check_shape(name: str, array: Any, axes: str, **sizes: int) -> None:
    """Raises ValueError unless an array has the given axes.

    Args:
        name: of the array, for the error.
        array: anything with a shape.
        axes: the names of the axes as in docstrings, such as '[B, h, d_a]'.
        **sizes: required sizes of axes, by name. The other axes may have any size.

    Raises:
        ValueError: the shape differs, as in 'rewards has shape (16, 1): must be [B] with B=16'.
    """
    names = axes.strip('[]').split(', ')
    try:
        chex.assert_shape(array, [sizes.get(axis) for axis in names])
    except AssertionError:  # chex names neither the array nor the axes
        known = ', '.join(f'{axis}={sizes[axis]}' for axis in names if axis in sizes)
        wanted = f'{axes} with {known}' if known else axes
        raise ValueError(f'{name} has shape {tuple(array.shape)}: must be {wanted}') from None
