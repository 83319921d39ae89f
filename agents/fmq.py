"""Flow map Q-guidance, FMQ (Ziakas et al., 2026, arXiv 2605.12416).

u(s, x, r, t) is the mean velocity between times r ≤ t on the way x_r = (1 − r) ε + r a from noise
ε to an action a, so one step takes noise to an action: a = clip(ε + u(s, ε, 0, 1)). Offline, the
losses on the data's chunk are

    flow matching   ‖u(x_t, t, t) − (a − ε)‖²
    distillation    ‖u(x_r, r, t) − sg(v + (t − r) d/dr u(x_r, r, t))‖²,   v = a − ε

Distillation begins after `warmup_steps` updates, and its intervals [r, t] grow to their full length
by `anneal_steps`. When the online phase begins, u_off becomes a frozen copy of u. From then on u
learns to go up Q but to stay near u_off:

    ‖u(x_r, r, 1) − sg(u_off(x_r, r, 1) + η g)‖²,   g = ∇Q_1/‖∇Q_1‖ at clip(x_r + (1 − r) u_off)

That target is optimal for a linear Q under a penalty on the distance to u_off. With `caution`
β > 0, η shrinks where the critics disagree (agents/ascent.py); the paper's has η = 1 and β = 0.3.
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.lax import stop_gradient

from agents.ascent import steps_up
from agents.base import Agent, Info, Network, Params, actor_mlp, base_config, require_range
from agents.mvp import mean_flow
from utils.flows import flow_matching_loss
from utils.replay import Batch
from utils.spec import Spec


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of FMQ's release, the same for all tasks."""
    config = base_config()
    config.agent_name = 'fmq'
    config.num_samples = 32
    config.rank_agg = 'min'  # as in its online phase; offline it ranks by the mean
    config.warmup_steps = 5_000  # updates with flow matching only
    config.anneal_steps = 50_000  # updates until intervals have their full length
    config.eta = 0.5  # η, length of the step up Q
    config.caution = 0.0  # β, how much that step shrinks where the critics disagree
    return config


class FMQAgent(Agent, kw_only=True):
    """A one-step flow map on the shared best-of-N critic.

    Its network u takes (x, t, r), where r is the time of x.
    """

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'eta', 'caution', 'warmup_steps', least=0)
        require_range(config, 'anneal_steps', above=config.warmup_steps)

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        return {'actor': actor_mlp(spec, config, spec.chunk_dim, 1, 1)}

    @classmethod
    def slow_copies(cls, config: Any, online: bool) -> dict[str, float]:
        return super().slow_copies(config, online) | {'actor': 0.0}

    def begin_online(self) -> Self:
        """Returns the agent in its online phase, with u_off equal to the current policy."""
        return super().begin_online().renew_slow('actor')

    def aggregate(self, values: jax.Array, agg: str = '') -> jax.Array:
        """As in the base class, but online targets take the ensemble's minimum."""
        return super().aggregate(values, agg or ('min' if self.online else ''))

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        u = self.network('actor', params, observations)
        return jnp.clip(noise + u(noise, jnp.ones(1), jnp.zeros(1)), -1, 1)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the phase's loss on the batch's valid actions, and scalars to log."""
        chunks, valid = self.masked_chunks(batch)
        loss = self.guidance_loss if self.online else self.flow_map_loss
        return loss(params, batch['observations'], chunks, self.entry_mask(valid), rng)

    def flow_map_loss(
        self, params: Params, observations: Any, chunks: jax.Array, mask: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, Info]:
        """Returns flow matching + distillation on `chunks [B, D]`, and scalars to log."""
        flow_rng, noise_rng, time_rng = jax.random.split(rng, 3)
        u = self.network('actor', params, observations)
        flow_loss = flow_matching_loss(lambda x, t: u(x, t, t), chunks, mask, flow_rng)
        noise, progress = jax.random.normal(noise_rng, chunks.shape), self.progress
        r, t = sample_interval(time_rng, len(chunks), progress)
        prediction, target = mean_flow(u, (1 - r) * noise + r * chunks, chunks - noise, t, r)
        distillation_loss = jnp.mean(mask * jnp.square(prediction - target))
        return flow_loss + (progress > 0) * distillation_loss, {
            'actor/flow_loss': flow_loss,
            'actor/distillation_loss': distillation_loss,
        }

    @property
    def progress(self) -> jax.Array:
        """The length of the intervals at this update, relative to their full length, 0 to 1."""
        config, count = self.config, optax.tree_utils.tree_get(self.opt_state, 'count')
        duration = config.anneal_steps - config.warmup_steps
        return jnp.clip((count - config.warmup_steps) / duration, 0, 1)

    def guidance_loss(
        self, params: Params, observations: Any, chunks: jax.Array, mask: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, Info]:
        """Returns the regression to u_off + η g from `chunks [B, D]`, and scalars to log."""
        noise_rng, time_rng = jax.random.split(rng)
        r, end = jax.random.uniform(time_rng, (len(chunks), 1)), jnp.ones(1)
        x = (1 - r) * jax.random.normal(noise_rng, chunks.shape) + r * chunks
        off = self.network('actor', self.slow, observations)(x, end, r)
        reached = jnp.clip(x + (1 - r) * off, -1, 1)
        critic = self.network('critic', self.params, observations)
        step = self.config.eta * steps_up(critic, reached, self.config.caution, member=0)
        u = self.network('actor', params, observations)(x, end, r)
        loss = jnp.mean(mask * jnp.square(u - stop_gradient(off + step)))
        return loss, {
            'actor/guidance_loss': loss,
            'actor/step_length': jnp.linalg.norm(step, axis=-1).mean(),
        }


def sample_interval(rng: jax.Array, size: int, progress: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns times r ≤ t `[size, 1]` in [0, 1], from two uniform draws.

    With progress 1 they are the draws, sorted; with progress 0 both are the middle of the draws.
    """
    draws = jax.random.uniform(rng, (2, size, 1))
    middle, half = draws.mean(axis=0), jnp.abs(draws[0] - draws[1]) / 2 * progress
    return middle - half, middle + half
