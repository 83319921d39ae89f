"""Flow matching: a velocity field that carries noise (t = 0) to data (t = 1) along straight lines.

Source: Flow Matching (Lipman et al., 2023, arXiv 2210.02747), as FQL (arXiv 2502.02538) uses it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from utils.shapes import check_same_shape

# (x [..., D], t [..., 1]) -> dx/dt [..., D]
Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def flow_matching_loss(
    velocity: Velocity, samples: jax.Array, mask: jax.Array, rng: jax.Array
) -> jax.Array:
    """Returns the squared error of a velocity field against x_1 − x_0, in the mean over entries.

    The field is evaluated at x_t = (1 − t) x_0 + t x_1 with noise x_0 ~ N(0, I) and t ~ U[0, 1].

    Args:
        velocity: the field, at the states that `samples` belong to.
        samples: x_1 `[..., D]`.
        mask: `[..., D]`, 1 for each entry of `samples` that counts. The others count as zeros.
        rng: of the noise and the times.

    Returns:
        A scalar.

    Raises:
        ValueError: the mask or the velocities have another shape than the samples.
    """
    check_same_shape('mask', mask, 'samples', samples)
    noise_rng, time_rng = jax.random.split(rng)
    noise = jax.random.normal(noise_rng, samples.shape)
    t = jax.random.uniform(time_rng, (*samples.shape[:-1], 1))
    velocities = velocity((1 - t) * noise + t * samples, t)
    check_same_shape('velocity(x, t)', velocities, 'x', samples)
    return jnp.mean(mask * jnp.square(velocities - (samples - noise)))


def integrate(velocity: Velocity, noise: jax.Array, num_steps: int) -> jax.Array:
    """Returns where the field carries `noise [..., D]` from t = 0 to t = 1, by Euler steps.

    The loop is unrolled. So XLA computes only once what depends on the observation alone, and no
    step waits for the loop's own control.
    """
    x = noise
    for i in range(num_steps):
        x = x + velocity(x, jnp.full((1,), i / num_steps)) / num_steps
    return x
