"""Many seeds in one program: a leading axis on everything that is a seed's own.

Agents, and the parts of a replay buffer that are not the shared data set, are stacked `[S, …]`.
`over_seeds` lifts a function of one seed to that axis. The axis is spread over the devices of the
mesh in force (`jax.set_mesh(seed_mesh(S))`): each computes its own seeds, and none waits for
another.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

AXIS = 'seeds'


def seed_mesh(num_seeds: int) -> jax.sharding.Mesh:
    """Returns as many of the local devices as divide the seeds evenly."""
    devices = jax.local_devices()
    num = max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0)
    return jax.sharding.Mesh(np.array(devices[:num]), (AXIS,))


def stack(trees: list) -> Any:
    """Stacks one tree per seed along a new first axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def unstack(tree: Any, seed: int) -> Any:
    """Returns one seed's part of a stacked tree."""
    return jax.tree.map(lambda x: x[seed], tree)


def place(tree: Any, axes: Any) -> Any:
    """Spreads a stacked tree over the mesh in force: each seed on its device, the rest on all.

    Args:
        tree: arrays.
        axes: 0 where they are stacked, None where shared, as a prefix of `tree`.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return tree
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(axes))
    return jax.device_put(tree, shardings)


def over_seeds(function: Callable, in_axes: Any, out_axes: Any = 0) -> Callable:
    """Lifts a function of one seed's trees to stacked ones.

    Like `jax.vmap`, except that axes are 0 (stacked) or None (shared) only, that the seeds are
    spread over the mesh in force, and that a single seed is computed as it would be without an
    axis, which is faster on some devices.
    """

    def local(*args):
        sizes = {
            x.shape[0]
            for axes, arg in zip(in_axes, args, strict=True)
            for axis, x in _leaves_with_axes(axes, arg)
            if axis == 0
        }
        if sizes != {1}:
            return jax.vmap(function, in_axes=in_axes, out_axes=out_axes)(*args)
        alone = [
            _map_axes(lambda x: x[0], axes, arg) for axes, arg in zip(in_axes, args, strict=True)
        ]
        return _map_axes(lambda x: x[None], out_axes, function(*alone))

    def lifted(*args):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return local(*args)
        return jax.shard_map(local, in_specs=_specs(in_axes), out_specs=_specs(out_axes))(*args)

    return lifted


def _is_none(x):
    return x is None


def _specs(axes):
    return jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(AXIS),
        axes,
        is_leaf=_is_none,
    )


def _leaves_with_axes(axes, tree):
    """Yields (axis, array) of a tree of which `axes` is a prefix."""
    found = []
    _map_with_axes(lambda axis, x: found.append((axis, x)), axes, tree)
    return found


def _map_with_axes(function, axes, tree):
    return jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: function(axis, x), part),
        axes,
        tree,
        is_leaf=_is_none,
    )


def _map_axes(function, axes, tree):
    """Applies a function to the stacked arrays only."""
    return _map_with_axes(lambda axis, x: x if axis is None else function(x), axes, tree)
