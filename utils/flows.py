"""Flow matching: a velocity field that carries noise (t = 0) to data (t = 1) along straight lines.

Source: Flow Matching (Lipman et al., 2023, arXiv 2210.02747), as FQL (arXiv 2502.02538) uses it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (x [..., D], t [..., 1]) -> dx/dt [..., D]
Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def flow_matching_loss(
    velocity: Velocity, samples: jax.Array, mask: jax.Array, rng: jax.Array
) -> jax.Array:
    """Regresses the velocity onto x_1 − x_0 at x_t = (1 − t) x_0 + t x_1, t ~ U[0, 1].

    Args:
        velocity: the field, of the states that `samples` belong to.
        samples: x_1 `[..., D]`.
        mask: 1 where an entry of `samples` counts, 0 elsewhere, `[..., D]`.
        rng: of the noise x_0 and the times.

    Returns:
        The mean over all entries, masked ones included as zeros.
    """
    noise_rng, time_rng = jax.random.split(rng)
    noise = jax.random.normal(noise_rng, samples.shape)
    t = jax.random.uniform(time_rng, (*samples.shape[:-1], 1))
    errors = velocity((1 - t) * noise + t * samples, t) - (samples - noise)
    return jnp.mean(mask * jnp.square(errors))


def integrate(velocity: Velocity, noise: jax.Array, num_steps: int) -> jax.Array:
    """Follows the field from `noise [..., D]` at t = 0 to t = 1 by Euler steps.

    The loop is unrolled, so that whatever the field computes from the observation alone is one
    expression that XLA computes once, and so that no step waits for a loop's bookkeeping.
    """
    x = noise
    for i in range(num_steps):
        x = x + velocity(x, jnp.full((1,), i / num_steps)) / num_steps
    return x
