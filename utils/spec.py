"""The definition of a transition: names, shapes and dtypes, read once from the data.

A transition is a tree: a dict of arrays or of dicts of arrays. It always has `observations`,
`actions`, `rewards` and `masks`; data may have more entries. `observations` may be one array, such
as `[d_s]`, or a dict such as `{'state': [d_s], 'image': [H, W, C] uint8}`. Replay, batches,
simulators and checkpoints map over this tree; none of them lists its entries.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict, unfreeze

Tree = Any  # an array, or a dict of trees
TERMINALS = 'terminals'  # an entry of data sets only: true on the last row of each episode


def is_image(x: Any) -> bool:
    """Whether an entry is an image `[..., H, W, C]`: uint8 with three axes or more."""
    return x.dtype == np.uint8 and len(x.shape) >= 3


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shapes and dtypes of a transition, and the shape of a policy's chunk. Hashable.

    Attributes:
        transition: tree of `jax.ShapeDtypeStruct` without leading axes, as a `FrozenDict`.
        horizon: h, the number of actions in a chunk.
        frame_stack: number of frames in the policy's images, stacked along the channels.
    """

    transition: Any
    horizon: int = 1
    frame_stack: int = 1

    @classmethod
    def of(cls, rows: Mapping[str, Tree]) -> 'Spec':
        """Returns the spec of a data set, whose arrays are `[R, ...]`.

        uint8 is kept, everything else is stored as float32.
        """
        fields = {name: rows[name] for name in rows if name != TERMINALS}
        return cls(
            FrozenDict(
                jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(
                        x.shape[1:], np.uint8 if x.dtype == np.uint8 else np.float32
                    ),
                    fields,
                )
            )
        )

    @property
    def observation(self) -> Tree:
        """What the policy observes, as a tree of `jax.ShapeDtypeStruct`."""

        def stack(x):
            repeats = self.frame_stack if is_image(x) else 1
            return jax.ShapeDtypeStruct((*x.shape[:-1], repeats * x.shape[-1]), x.dtype)

        return jax.tree.map(stack, unfreeze(self.transition)['observations'])

    @property
    def chunk(self) -> tuple[int, int]:
        """(h, d_a)."""
        return self.horizon, self.transition['actions'].shape[-1]

    @property
    def chunk_dim(self) -> int:
        """D = h · d_a, the size of a flattened chunk."""
        return self.chunk[0] * self.chunk[1]

    def shapes(self, name: str, *leading: Any) -> Tree:
        """Returns the shapes `(*leading, ...)` of an entry, for `check_tree`."""
        return jax.tree.map(lambda x: (*leading, *x.shape), unfreeze(self.transition)[name])

    def zeros(self, *leading: int) -> dict[str, Tree]:
        """Returns transitions of zeros `[*leading, ...]`, as NumPy arrays."""
        return jax.tree.map(
            lambda x: np.zeros((*leading, *x.shape), x.dtype), unfreeze(self.transition)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the transition's tree with a list [dtype, *shape] per array."""
        return jax.tree.map(lambda x: [np.dtype(x.dtype).name, *x.shape], unfreeze(self.transition))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'Spec':
        """Returns the spec from the output of `to_json`."""
        read = lambda x: jax.ShapeDtypeStruct(tuple(x[1:]), np.dtype(x[0]))  # noqa: E731
        return cls(
            FrozenDict(jax.tree.map(read, dict(content), is_leaf=lambda x: isinstance(x, list)))
        )


def check_tree(tree: Tree, expected: Tree, name: str = '') -> None:
    """Raises ValueError unless a tree has the entries of another, with their shapes.

    Args:
        tree: of arrays; it may have more entries than `expected`.
        expected: tree of shapes. A shape that begins with `...` leaves the leading axes free.
        name: of the tree, for the error.
    """
    if isinstance(expected, Mapping):
        for key, shape in expected.items():
            path = f'{name}/{key}' if name else key
            if not isinstance(tree, Mapping) or key not in tree:
                found = sorted(tree) if isinstance(tree, Mapping) else 'an array'
                raise ValueError(f'{path} is missing; {name or "it"} has {found}')
            check_tree(tree[key], shape, path)
        return
    shape, trailing = np.shape(tree), expected[1:]
    fits = shape[len(shape) - len(trailing) :] == trailing if expected[:1] == (...,) else False
    if isinstance(tree, Mapping) or not (fits or shape == expected):
        wanted = str(expected).replace('Ellipsis', '...')
        raise ValueError(f'{name} has shape {shape}: must be {wanted}')
