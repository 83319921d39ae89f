"""Seeds as an axis: the trees of seeds trained together are stacked along a first axis `[S, …]`.

Each device holds the stack of its own seeds and never waits for another device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def stack(trees: Sequence[Any]) -> Any:
    """Stacks one tree per seed along a new first axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def unstack(tree: Any, index: int) -> Any:
    """Returns the tree of one seed."""
    return jax.tree.map(lambda x: x[index], tree)


def over_seeds(function: Callable, in_axes: Sequence[int | None]) -> Callable:
    """Returns `jax.vmap(function, in_axes)`, but computes a single seed without an axis.

    Without the axis the program is faster on some devices, and its numbers are those of a seed
    trained alone.

    Args:
        function: of one seed's trees.
        in_axes: for each argument 0 (stacked) or None (shared by all seeds).
    """

    def lifted(*args):
        stacked = [x for x, axis in zip(args, in_axes, strict=True) if axis == 0]
        if jax.tree.leaves(stacked)[0].shape[0] > 1:
            return jax.vmap(function, in_axes=tuple(in_axes))(*args)
        alone = [
            x if axis is None else unstack(x, 0) for x, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*alone))

    return lifted


def share_out(num_seeds: int, num_devices: int) -> list[slice]:
    """Splits consecutive seeds over devices, as evenly as possible.

    Returns:
        The seeds of each device; devices beyond the number of seeds get none.
    """
    used = min(num_seeds, num_devices)
    ends = [num_seeds * (i + 1) // used for i in range(used)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
