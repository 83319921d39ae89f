"""FMQ: what is known in closed form of both phases' losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_agents import FixedCritic, compiled, equal, make, make_batch, with_critic

from agents.ascent import steps_up
from agents.fmq import sample_interval

A, B, C = 0.3, -0.7, 1.1
RNG = jax.random.PRNGKey(0)


class Affine:
    """u(x, t, r) = A x + B r + C t."""

    def apply(self, params, observations, x, t, r):
        return A * x + B * r + C * t


class LinearCritics:
    """Two critics `C_e · chunk`; the second is steeper, and disagrees more the farther away."""

    slopes = np.stack([np.linspace(-0.2, 0.3, 8), np.linspace(0.5, -1.0, 8)]).astype(np.float32)

    def apply(self, params, observations, chunks):
        return jnp.stack([chunks @ slope for slope in self.slopes])


def with_actor(agent, module):
    return agent.replace(modules=agent.modules.copy({'actor': module}))


def at_update(agent, count):
    state = optax.tree_utils.tree_set(agent.opt_state, count=jnp.int32(count))
    return agent.replace(opt_state=state)


def hand_out_draws(monkeypatch, seed=0):
    """Makes jax.random return the same numbers for each draw of a shape; returns them."""
    rng, draws = np.random.default_rng(seed), {}

    def hand_out(kind):
        def draw(_, shape):
            if (kind, shape) not in draws:
                numbers = rng.normal(size=shape) if kind == 'normal' else rng.uniform(size=shape)
                draws[kind, shape] = numbers.astype(np.float32)
            return draws[kind, shape]

        return draw

    for kind in ('normal', 'uniform'):
        monkeypatch.setattr(jax.random, kind, hand_out(kind))
    return draws


def test_offline_losses_of_an_affine_map_by_their_formulas(monkeypatch):
    agent = at_update(with_actor(make('fmq'), Affine()), 27_500)  # half-way: progress 0.5
    batch, draws = make_batch(), hand_out_draws(monkeypatch)
    _, info = agent.actor_loss(agent.params, batch, agent.rng)
    a, e = np.asarray(batch['actions']).reshape(16, 8), draws['normal', (16, 8)]
    s = draws['uniform', (16, 1)]
    flow = A * ((1 - s) * e + s * a) + (B + C) * s - (a - e)
    np.testing.assert_allclose(info['actor/flow_loss'], np.mean(flow**2), rtol=1e-5)
    low, high = np.sort(draws['uniform', (2, 16, 1)], axis=0)
    r, t = 0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high
    v, x = a - e, (1 - r) * e + r * a
    error = A * x + B * r + C * t - (v + (t - r) * (B + A * v))  # d/dr along the way is B + A v
    np.testing.assert_allclose(info['actor/distillation_loss'], np.mean(error**2), rtol=1e-5)


@pytest.mark.parametrize(('count', 'progress'), [(0, 0), (5_000, 0), (27_500, 0.5), (80_000, 1)])
def test_distillation_begins_after_the_warm_up_and_grows(count, progress):
    agent, batch = at_update(make('fmq'), count), make_batch()
    np.testing.assert_allclose(agent.progress, progress)
    loss, info = compiled(agent, 'actor_loss', agent.params, batch, agent.rng)
    distillation = info['actor/distillation_loss'] if progress else 0
    np.testing.assert_allclose(loss, info['actor/flow_loss'] + distillation, rtol=1e-5)
    r, t = sample_interval(RNG, 500, progress)
    full = sample_interval(RNG, 500, 1.0)
    assert r.min() >= 0
    assert (r <= t).all()
    assert t.max() <= 1
    np.testing.assert_allclose(t - r, progress * (full[1] - full[0]), atol=1e-6)
    assert full[0].min() < 0.05 < 0.95 < full[1].max()


@pytest.mark.parametrize('caution', [0.0, 0.3])
def test_the_online_target_is_the_frozen_map_and_a_step_up_the_first_critic(caution, monkeypatch):
    agent = with_critic(make('fmq', eta=0.8, caution=caution), LinearCritics())
    frozen = with_actor(agent, Affine()).begin_online()
    batch, draws = make_batch(), hand_out_draws(monkeypatch)
    loss, info = frozen.actor_loss(frozen.params, batch, frozen.rng)
    a, e = np.asarray(batch['actions']).reshape(16, 8), draws['normal', (16, 8)]
    r = draws['uniform', (16, 1)]
    x = (1 - r) * e + r * a
    reached = np.clip(x + (1 - r) * (A * x + B * r + C), -1, 1)
    first, second = LinearCritics.slopes
    spread = np.abs(reached @ (first - second)) / 2  # of two numbers
    length = 0.8 / (1 + caution * spread / spread.mean())
    # u is still u_off, so what is left of the target is the step.
    np.testing.assert_allclose(loss, np.mean(length**2) / 8, rtol=1e-4)
    np.testing.assert_allclose(info['actor/step_length'], length.mean(), rtol=1e-4)
    critic = frozen.network('critic', frozen.params, batch['observations'])
    steps = 0.8 * steps_up(critic, jnp.asarray(reached), caution, member=0)
    direction = first / np.linalg.norm(first)
    np.testing.assert_allclose(steps, length[:, None] * direction, rtol=1e-4, atol=1e-6)


def test_steps_climb_the_mean_of_the_ensemble_unless_a_member_is_named():
    critic = lambda chunks: LinearCritics().apply(None, None, chunks)  # noqa: E731
    mean = LinearCritics.slopes.mean(axis=0)
    steps = steps_up(critic, jnp.ones((5, 8)), caution=0.0)
    np.testing.assert_allclose(steps, np.tile(mean / np.linalg.norm(mean), (5, 1)), rtol=1e-5)


def test_online_the_policy_goes_one_step_from_the_kept_map_and_no_farther():
    agent = make('fmq', lr=1e-2, num_samples=1, actor_hidden_dims=(64,), eta=0.5)
    agent = with_critic(agent, FixedCritic(best=np.float32(5.0))).begin_online()
    kept, batch, noise = agent.slow['actor'], make_batch(), 0.05 * jax.random.normal(RNG, (16, 8))
    generate = jax.jit(type(agent).generate)
    start = generate(agent, agent.params, batch['observations'], noise)
    for _ in range(400):
        agent, _ = agent.update(batch)
    moved = generate(agent, agent.params, batch['observations'], noise) - start
    np.testing.assert_allclose(jnp.linalg.norm(moved, axis=-1).mean(), 0.5, atol=0.15)
    assert moved.mean() > 0.1
    assert equal(agent.slow['actor'], kept)


def test_targets_are_of_the_mean_offline_and_of_the_minimum_online_and_the_minimum_ranks():
    agent = with_critic(make('fmq'), LinearCritics())
    values = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    assert agent.aggregate(values).tolist() == [2, 1]
    assert agent.begin_online().aggregate(values).tolist() == [1, 0]
    observations, chunks = (
        make_batch()['observations'],
        jnp.linspace(-1, 1, 3)[:, None] * jnp.ones(8),
    )
    chunks = jnp.broadcast_to(chunks, (16, 3, 8))
    both = chunks @ LinearCritics.slopes.T
    best = np.asarray(both.min(axis=-1)).argmax(axis=-1)
    chosen, value = agent.choose(observations, chunks)
    np.testing.assert_array_equal(chosen, chunks[jnp.arange(16), best])
    np.testing.assert_allclose(value, both.min(axis=-1).max(axis=-1))
