"""Mean velocity policy (MVP; arXiv 2602.13810), a one-step policy by MeanFlow (arXiv 2505.13447).

u(s, z, r, t) is the mean velocity between times r ≤ t on the way z_t = (1 − t) a + t ε from an
action (t = 0) to noise (t = 1), so one step takes noise to an action: a = clip(ε − u(s, ε, 0, 1)).
With v = ε − a the losses are

    MeanFlow   ‖u(z_t, r, t) − sg(v − (t − r) d/dt u(z_t, r, t))‖²
    IVC        ‖u(z_r, r, r) − v‖², the instantaneous velocity constraint

on the data's chunk and, with half the weight, on the K best of N chunks that a slow copy of the
policy proposes. As in the configuration released with DFP, that is so in both phases.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Info, TopKAgent, base_config, require
from utils.replay import Batch

# (z [..., D], r [..., 1], t [..., 1]) -> mean velocity between r and t [..., D]
MeanVelocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of the paper's table; on cube-triple it has ivc_weight=0."""
    config = base_config()
    config.agent_name = 'mvp'
    config.ivc_weight = 1.0  # λ; 0: the constraint is not computed
    config.time_mean = -0.4  # r and t are sigmoids of normal draws with this mean
    config.time_std = 1.0  # and this standard deviation
    config.num_candidates = 16  # N, chunks that π_old proposes per state
    config.top_k = 4  # K, of which are regression targets; 0: the data alone
    config.topk_weight = 0.5  # of the mean over those K
    config.data_weight = 1.0  # of the batch's chunk
    config.ema_rate = 1e-4  # of π_old
    return config


def sample_times(rng, shape: tuple[int, ...], mean: float, std: float):
    """Draws r ≤ t of the given shape, two sigmoids of N(mean, std²), in [1e-6, 1 − 1e-6]."""
    draws = jax.nn.sigmoid(mean + std * jax.random.normal(rng, (2, *shape)))
    draws = jnp.clip(draws, 1e-6, 1 - 1e-6)
    return draws.min(axis=0), draws.max(axis=0)


def mean_flow(u: MeanVelocity, z: jax.Array, v: jax.Array, r: jax.Array, t: jax.Array):
    """Returns u(z, r, t) and what it should be, v − (t − r) d/dt u(z, r, t), both `[..., D]`.

    The derivative is the total one on the way through z: along (v, 0, 1) in (z, r, t). One
    forward-mode pass gives it for the whole batch together with u. No gradient flows through the
    second value (MeanFlow, equations 10 and 11).
    """
    tangents = v, jnp.zeros_like(r), jnp.ones_like(t)
    prediction, derivative = jax.jvp(u, (z, r, t), tangents)
    return prediction, jax.lax.stop_gradient(v - (t - r) * derivative)


class MVPAgent(TopKAgent, kw_only=True):
    """MeanFlow on the shared best-of-N critic."""

    num_times = 2

    @classmethod
    def check_config(cls, config: ml_collections.ConfigDict) -> None:
        super().check_config(config)
        for name in ('ivc_weight', 'time_std'):
            require(config[name] >= 0, f'--agent.{name}={config[name]}: must not be negative')
        require(
            config.data_weight or (config.top_k and config.topk_weight),
            '--agent.data_weight=0: leaves nothing to learn from without top_k and topk_weight',
        )

    def propose(self, actor_params, observations: jax.Array, num: int, rng) -> jax.Array:
        noise = jax.random.normal(rng, (*observations.shape[:-1], num, self.chunk_dim))
        r, t = jnp.zeros(1), jnp.ones(1)
        u = self.actor.apply(actor_params, observations[..., None, :], noise, r, t)
        return jnp.clip(noise - u, -1, 1)

    def actor_loss(self, actor_params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """MeanFlow and IVC on P targets per state, each with its own noise and times."""
        config = self.config
        candidate_rng, noise_rng, time_rng = jax.random.split(rng, 3)
        chunks, mask, weights = self.regression_targets(batch, candidate_rng)
        noise = jax.random.normal(noise_rng, chunks.shape)
        r, t = sample_times(time_rng, (*chunks.shape[:-1], 1), config.time_mean, config.time_std)
        v = noise - chunks

        def u(z, r, t):
            return self.actor.apply(actor_params, batch['observations'][:, None], z, r, t)

        def weighted(errors):
            return jnp.mean(mask * jnp.square(errors), axis=(0, 2)) @ weights

        prediction, target = mean_flow(u, (1 - t) * chunks + t * noise, v, r, t)
        info = {'actor/mean_flow_loss': weighted(prediction - target)}
        loss = info['actor/mean_flow_loss']
        if config.ivc_weight:
            info['actor/ivc_loss'] = weighted(u((1 - r) * chunks + r * noise, r, r) - v)
            loss += config.ivc_weight * info['actor/ivc_loss']
        return loss, info

    def regression_targets(self, batch: Batch, rng: jax.Array):
        """Returns P chunks per state `[B, P, D]`, which entries count `[B, P, D]`, weights `[P]`.

        The batch's chunk, as far as it is valid, is one of them; the K best candidates the others.
        """
        config = self.config
        targets, masks, weights = [], [], []
        if config.data_weight:
            chunks, valid = self.chunks_of(batch)
            targets.append(chunks[:, None])
            masks.append(self.entries(valid)[:, None])
            weights.append(config.data_weight)
        if self.uses_top_k:
            candidates, _ = self.ranked_candidates(batch['observations'], rng)
            targets.append(candidates[:, : config.top_k])
            masks.append(jnp.ones_like(targets[-1]))
            weights += [config.topk_weight / config.top_k] * config.top_k
        return jnp.concatenate(targets, 1), jnp.concatenate(masks, 1), jnp.asarray(weights)
