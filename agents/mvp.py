"""Mean velocity policy (MVP; arXiv 2602.13810), a one-step policy by MeanFlow (arXiv 2505.13447).

u(s, z, r, t) is the mean velocity between times r ≤ t on the way z_t = (1 − t) a + t ε from an
action (t = 0) to noise (t = 1), so one step takes noise to an action: a = clip(ε − u(s, ε, 0, 1)).
With v = ε − a the losses are

    MeanFlow   ‖u(z_t, r, t) − sg(v − (t − r) d/dt u(z_t, r, t))‖²
    IVC        ‖u(z_r, r, r) − v‖², the instantaneous velocity constraint

Both use the data's chunk. This is the MVP baseline of the DFP paper (table 1, top_k = 0):
the critic only chooses among N samples. In its table 2, MVP also learns online, with half the
weight, from the K = 4 best of 16 chunks proposed by a slow copy of the policy (π_old). The
configuration released with DFP has K = 4 in both phases (`topk_phases`), which matches neither row.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Info, Network, Params, actor_mlp, base_config, require, require_range
from agents.top_k import TopKAgent
from utils.replay import Batch
from utils.spec import Spec

# (z [..., D], r [..., 1], t [..., 1]) -> mean velocity between r and t [..., D]
MeanVelocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of the paper's table; on cube-triple it has ivc_weight=0."""
    config = base_config()
    config.agent_name = 'mvp'
    config.ivc_weight = 1.0  # λ, weight of the constraint; 0: none
    config.time_mean = -0.4  # r and t are sigmoids of normal draws with this mean
    config.time_std = 1.0  # and this standard deviation
    config.num_candidates = 16  # N, proposals of π_old per state
    config.top_k = 0  # K, the best of them, to learn from; 0: only from the data
    config.topk_weight = 0.5  # weight of the loss on those K
    config.topk_phases = 'online'  # phases with a loss on those K; or offline, both
    config.data_weight = 1.0  # weight of the loss on the data's chunk online; offline it is 1
    config.ema_rate = 1e-4  # rate of π_old
    return config


def sample_times(
    rng: jax.Array, shape: tuple[int, ...], mean: float, std: float
) -> tuple[jax.Array, jax.Array]:
    """Returns times r ≤ t of the given shape: two sigmoids of N(mean, std²), sorted.

    They are clipped to [1e-6, 1 − 1e-6].
    """
    draws = jax.nn.sigmoid(mean + std * jax.random.normal(rng, (2, *shape)))
    draws = jnp.clip(draws, 1e-6, 1 - 1e-6)
    return draws.min(axis=0), draws.max(axis=0)


def mean_flow(
    u: MeanVelocity, z: jax.Array, v: jax.Array, r: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns u and its regression target (MeanFlow, equations 10 and 11).

    d/dt is the total derivative along the path: z moves with v and r is fixed. One forward-mode
    pass computes it together with u.

    Args:
        u: the mean velocity.
        z: points on the path `[..., D]`.
        v: the path's velocity there `[..., D]`.
        r: earlier time `[..., 1]`.
        t: later time, that of z, `[..., 1]`.

    Returns:
        u(z, r, t) and v − (t − r) d/dt u(z, r, t), both `[..., D]`. The second has no gradient.
    """
    tangents = v, jnp.zeros_like(r), jnp.ones_like(t)
    prediction, derivative = jax.jvp(u, (z, r, t), tangents)
    return prediction, jax.lax.stop_gradient(v - (t - r) * derivative)


class MVPAgent(TopKAgent, kw_only=True):
    """MeanFlow on the shared best-of-N critic."""

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        return {'actor': actor_mlp(spec, config, spec.chunk_dim, 1, 1)}

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'ivc_weight', 'time_std', least=0)
        online = config.top_k and config.topk_weight and config.topk_phases != 'offline'
        require(
            config.data_weight or online,
            '--agent.data_weight=0: leaves nothing to learn online; also set top_k, topk_weight '
            'and topk_phases=online or both',
        )

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        u = self.network('actor', params, observations)
        return jnp.clip(noise - u(noise, jnp.zeros(1), jnp.ones(1)), -1, 1)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns MeanFlow + λ · IVC on P chunks per state, and scalars to log.

        Each chunk has its own noise and times.
        """
        config = self.config
        candidate_rng, noise_rng, time_rng = jax.random.split(rng, 3)
        chunks, mask, weights = self.regression_targets(batch, candidate_rng)
        noise = jax.random.normal(noise_rng, chunks.shape)
        r, t = sample_times(time_rng, (*chunks.shape[:-1], 1), config.time_mean, config.time_std)
        v = noise - chunks

        u = self.network('actor', params, batch['observations'])

        def weighted_loss(errors):
            return jnp.mean(mask * jnp.square(errors), axis=(0, 2)) @ weights

        prediction, target = mean_flow(u, (1 - t) * chunks + t * noise, v, r, t)
        info = {'actor/mean_flow_loss': weighted_loss(prediction - target)}
        loss = info['actor/mean_flow_loss']
        if config.ivc_weight:
            info['actor/ivc_loss'] = weighted_loss(u((1 - r) * chunks + r * noise, r, r) - v)
            loss += config.ivc_weight * info['actor/ivc_loss']
        return loss, info

    def regression_targets(
        self, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the P chunks per state to learn from: the batch's, then the K best candidates.

        Returns:
            The chunks `[B, P, D]`, a mask `[B, P, D]` of the entries that count, and the weight of
            each chunk's loss `[P]`. The batch's chunk counts up to the end of its episode.
        """
        config = self.config
        targets, masks, weights = [], [], []
        if self.data_weight:
            chunks, valid = self.masked_chunks(batch)
            targets.append(chunks[:, None])
            masks.append(self.entry_mask(valid)[:, None])
            weights.append(self.data_weight)
        if self.uses_top_k:
            candidates, _ = self.ranked_candidates(batch['observations'], rng)
            targets.append(candidates[:, : config.top_k])
            masks.append(jnp.ones_like(targets[-1]))
            weights += [config.topk_weight / config.top_k] * config.top_k
        return jnp.concatenate(targets, 1), jnp.concatenate(masks, 1), jnp.asarray(weights)
