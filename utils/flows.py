"""Flow matching: a velocity field that carries noise (t = 0) to data (t = 1) along straight lines.

Source: Flow Matching (Lipman et al., 2023, arXiv 2210.02747), as used by FQL (arXiv 2502.02538).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from utils.spec import check_tree

# (x [..., D], t [..., 1]) -> dx/dt [..., D]
Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def flow_matching_loss(
    velocity: Velocity, samples: jax.Array, mask: jax.Array, rng: jax.Array
) -> jax.Array:
    """Returns the mean squared error of a velocity field against x_1 − x_0.

    The field is evaluated at x_t = (1 − t) x_0 + t x_1 with noise x_0 ~ N(0, I) and t ~ U[0, 1].

    Args:
        velocity: the field, at the states of `samples`.
        samples: x_1 `[..., D]`.
        mask: `[..., D]`, 1 for each entry of `samples` that counts; errors of the others are 0.
        rng: for the noise and the times.

    Returns:
        A scalar, the mean over all entries.

    Raises:
        ValueError: the mask or the velocities do not have the shape of the samples.
    """
    check_tree(mask, samples.shape, 'mask')
    noise_rng, time_rng = jax.random.split(rng)
    noise = jax.random.normal(noise_rng, samples.shape)
    t = jax.random.uniform(time_rng, (*samples.shape[:-1], 1))
    velocities = velocity((1 - t) * noise + t * samples, t)
    check_tree(velocities, samples.shape, 'velocity(x, t)')
    return jnp.mean(mask * jnp.square(velocities - (samples - noise)))


def integrate(velocity: Velocity, noise: jax.Array, num_steps: int) -> jax.Array:
    """Returns `noise [..., D]` carried along the field from t = 0 to t = 1 by Euler steps.

    The loop is unrolled, so XLA computes what depends only on the observation once, and there is no
    loop control between steps.
    """
    x = noise
    for i in range(num_steps):
        x = x + velocity(x, jnp.full((1,), i / num_steps)) / num_steps
    return x
