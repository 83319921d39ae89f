"""Steps from a chunk along ∇Q, shorter where the critic's ensemble disagrees."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def steps_up(
    critic: Callable[[jax.Array], jax.Array],
    chunks: jax.Array,
    caution: float,
    member: int | None = None,
) -> jax.Array:
    """Returns ∇Q/‖∇Q‖ · 1 / (1 + caution · d) at each chunk.

    d is the standard deviation of Q over the ensemble, in units of its mean over all chunks.
    Source: FMQ (arXiv 2605.12416), theorem 3.2 and equation 13.

    Args:
        critic: chunks `[..., D]` -> values `[E, ...]`.
        chunks: `[..., D]`.
        caution: β of the paper, at least 0.
        member: index of the member whose Q to follow; None: the ensemble's mean.

    Returns:
        `[..., D]`, each of length 1 or less.
    """

    def total(chunks):
        values = critic(chunks)
        climbed = values.mean(axis=0) if member is None else values[member]
        return climbed.sum(), values

    gradients, values = jax.grad(total, has_aux=True)(chunks)
    directions = gradients / (jnp.linalg.norm(gradients, axis=-1, keepdims=True) + 1e-8)
    spread = values.std(axis=0)
    disagreement = spread / (spread.mean() + 1e-8)
    return directions / (1 + caution * disagreement[..., None])
