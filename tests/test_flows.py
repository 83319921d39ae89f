"""Flow matching and Euler's method, against velocity fields that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from utils.flows import flow_matching_loss, integrate


@pytest.mark.parametrize('num_steps', [1, 4, 10])
def test_steps_are_those_of_euler_with_times_from_zero(num_steps):
    matrix = np.array([[0.3, -1.2], [0.8, -0.1]])
    x = jnp.asarray([[1.0, 2.0], [-0.5, 0.3]])
    result = integrate(lambda x, t: x @ matrix.T, x, num_steps)
    euler = np.linalg.matrix_power(np.eye(2) + matrix / num_steps, num_steps)
    np.testing.assert_allclose(result, x @ euler.T, rtol=1e-5)
    result = integrate(lambda x, t: jnp.broadcast_to(t, x.shape), x, num_steps)
    np.testing.assert_allclose(result, x + (num_steps - 1) / (2 * num_steps), rtol=1e-5)


def test_the_field_to_a_single_point_has_no_loss_and_is_followed_there():
    """All noise flows to one chunk c: v(x, t) = (c − x) / (1 − t), exactly."""
    chunk = jnp.asarray([0.3, -0.7, 0.1])

    def velocity(x, t):
        return (chunk - x) / (1 - t)

    samples = jnp.tile(chunk, (200, 1))
    rng = jax.random.PRNGKey(0)
    ones = jnp.ones_like(samples)
    assert flow_matching_loss(velocity, samples, ones, rng) < 1e-6
    for wrong in (lambda x, t: -velocity(x, t), lambda x, t: velocity(x, 0.5 * t)):
        assert flow_matching_loss(wrong, samples, ones, rng) > 1e-2
    noise = jax.random.normal(rng, (5, 3))
    np.testing.assert_allclose(integrate(velocity, noise, 10), samples[:5], atol=1e-5)


def test_masked_entries_add_nothing_but_count():
    samples, rng = jnp.ones((64, 4)), jax.random.PRNGKey(0)
    velocity = lambda x, t: jnp.zeros_like(x)  # noqa: E731
    whole = flow_matching_loss(velocity, samples, jnp.ones((64, 4)), rng)
    first = flow_matching_loss(velocity, samples, jnp.ones((64, 4)).at[:, 2:].set(0), rng)
    second = flow_matching_loss(velocity, samples, jnp.ones((64, 4)).at[:, :2].set(0), rng)
    np.testing.assert_allclose(first + second, whole, rtol=1e-5)
    assert first < 0.7 * whole


def test_a_mask_or_a_velocity_of_another_shape_is_refused():
    samples, rng = jnp.ones((64, 4)), jax.random.PRNGKey(0)
    for shape in ((64, 1), (1, 64, 4)):
        with pytest.raises(ValueError, match=r'mask has shape .*: must be \(64, 4\)'):
            flow_matching_loss(lambda x, t: x, samples, jnp.ones(shape), rng)
    with pytest.raises(ValueError, match=r'velocity\(x, t\) has shape \(64, 1\): .* \(64, 4\)'):
        flow_matching_loss(lambda x, t: x[:, :1], samples, jnp.ones((64, 4)), rng)
