"""MVP: the MeanFlow target, and a case whose mean velocity is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from small_agents import CHUNK_DIM, compiled, cut, make, make_batch, one_step, train_on

from agents.mvp import mean_flow, sample_times


def test_times_are_sorted_and_never_at_the_ends():
    """tests/test_golden_updates.py shows which they are."""
    r, t = sample_times(jax.random.PRNGKey(0), (100, 1), 0.0, 1e6)
    assert (r <= t).all()
    assert {*np.asarray([r, t]).ravel()} == {np.float32(1e-6), np.float32(1 - 1e-6)}


SCALE = 0.3


def sigma(t):
    return jnp.sqrt((1 - t) ** 2 * SCALE**2 + t**2)


def instantaneous(z, t):
    """E[ε − a | z_t]."""
    return z * (t - (1 - t) * SCALE**2) / sigma(t) ** 2


def mean_velocity(z, r, t):
    """(z_t − z_r) / (t − r)."""
    return z * (1 - sigma(r) / sigma(t)) / (t - r)


def test_the_known_mean_velocity_is_its_own_target():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        z = jnp.asarray(rng.normal(size=(100, 2)))
        r, t = jnp.sort(jnp.asarray(rng.uniform(0.01, 0.99, (2, 100, 1))), axis=0)
        prediction, target = mean_flow(mean_velocity, z, instantaneous(z, t), r, t)
        np.testing.assert_allclose(target, prediction, rtol=1e-8)
        close = mean_velocity(z, t - 1e-6, t)
        np.testing.assert_allclose(close, instantaneous(z, t), rtol=1e-4)


def test_the_optimum_is_the_known_mean_velocity():
    """At r = t it is the instantaneous velocity, and one step from noise gives the data."""

    def sample(rng):
        return one_step(jnp.ones((256, 1)), SCALE * jax.random.normal(rng, (256, 2)))

    agent = make(
        'mvp', observation_dim=1, horizon=1, top_k=0, lr=4e-3, num_samples=1,
        actor_hidden_dims=(64, 64), time_std=2.0,
    )  # fmt: skip
    agent = train_on(agent, sample, 600, average=200)
    z = jax.random.normal(jax.random.PRNGKey(5), (500, 2))
    u = partial(jax.jit(agent.modules['actor'].apply), agent.params['actor'], jnp.ones((500, 1)))
    times = jnp.linspace(0.2, 0.8, 500)[:, None]
    near = sigma(times) * z
    scale = jnp.abs(instantaneous(near, times)).mean()
    error = jnp.abs(u(near, times, times) - instantaneous(near, times)).mean()
    assert error < 0.15 * scale
    r, t = 0.3 * jnp.ones((500, 1)), 0.7 * jnp.ones((500, 1))
    near = sigma(0.7) * z
    error = jnp.abs(u(near, r, t) - mean_velocity(near, r, t)).mean()
    assert error < 0.15 * jnp.abs(mean_velocity(near, r, t)).mean()
    rng = jax.random.PRNGKey(6)
    actions = compiled(agent, 'propose', agent.params, jnp.ones(1), 2000, rng)
    np.testing.assert_allclose(actions.std(axis=0), SCALE, rtol=0.25)


def test_the_loss_by_its_definition():
    """The data's, and half the mean over the K best candidates of the slow copy."""
    agent = make('mvp', ivc_weight=0.7, num_candidates=6, top_k=2, data_weight=0.9).begin_online()
    agent = agent.replace(
        slow=agent.slow | {'actor': jax.tree.map(lambda x: 0.5 * x, agent.slow['actor'])}
    )
    batch = cut(make_batch(), [0, 3], length=2)
    rng = jax.random.PRNGKey(0)
    loss, _ = compiled(agent, 'actor_loss', agent.params, batch, rng)

    candidate_rng, noise_rng, time_rng = jax.random.split(rng, 3)
    observations = batch['observations']
    candidates = compiled(agent, 'propose', agent.slow, observations, 6, candidate_rng)
    values = np.asarray(compiled(agent, 'score', observations, candidates))
    best = np.argsort(-values, axis=1)[:, :2]
    noise = jax.random.normal(noise_rng, (16, 3, CHUNK_DIM))
    r, t = sample_times(time_rng, (16, 3, 1), -0.4, 1.0)
    entries = np.repeat(np.asarray(batch['valid']), 2, axis=1)
    u = partial(jax.jit(agent.modules['actor'].apply), agent.params['actor'], observations)
    expected = 0.0
    for i in range(3):
        chunks = candidates[np.arange(16), best[:, i - 1]]
        if i == 0:
            chunks = batch['actions'].reshape(16, -1) * entries
        eps, time, early = noise[:, i], t[:, i], r[:, i]
        v = eps - chunks
        prediction, target = mean_flow(u, (1 - time) * chunks + time * eps, v, early, time)
        errors = (prediction - target) ** 2
        errors += 0.7 * (u((1 - early) * chunks + early * eps, early, early) - v) ** 2
        expected += 0.9 * np.mean(errors * entries) if i == 0 else 0.5 / 2 * np.mean(errors)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
