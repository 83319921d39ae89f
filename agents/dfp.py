"""Drifting Field Policy (Koo et al., 2026, arXiv 2605.07727).

The policy is one pass of a network, a = clip(f(s, ε)), ε ~ N(0, I). It is trained by regressing
its particles onto themselves displaced by a drifting field, which points towards positives and
away from the policy's own particles (utils/drifting.py).

    offline  positives: the chunk of the data set, so plain behaviour cloning
    online   1.0 × the same, on the replay batch
           + 0.5 × the same particles towards the K best of N chunks that a slow copy of the
             policy (π_old) proposes, as scored by the critic
"""

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Info, TopKAgent, base_config, require
from utils.drifting import normalized_drifting_loss
from utils.replay import Batch


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of the paper's table."""
    config = base_config()
    config.agent_name = 'dfp'
    config.temperatures = (0.1,)  # T, of the kernel
    config.num_particles = 8  # G, fresh particles per state
    config.num_candidates = 16  # N, chunks that π_old proposes per state
    config.top_k = 4  # K, of which are positives; 0: no candidates are drawn
    config.num_negatives = 0  # M, lowest of the N as explicit negatives of the top-K term
    config.soft_weights = False  # weigh the K positives by their value
    config.topk_weight = 0.5  # of the top-K term
    config.data_weight = 1.0  # of the term on the replay batch's chunk
    config.q_weight = 0.0  # of a direct −Q term in the online phase
    config.ema_rate = 1e-4  # of π_old
    return config


class DFPAgent(TopKAgent, kw_only=True):
    """DFP on the shared best-of-N critic."""

    @classmethod
    def check_config(cls, config: ml_collections.ConfigDict) -> None:
        super().check_config(config)
        temperatures = tuple(config.temperatures)
        require(
            bool(temperatures) and min(temperatures) > 0,
            f'--agent.temperatures={temperatures}: needs at least one, each above 0',
        )
        require(
            config.num_particles >= 1,
            f'--agent.num_particles={config.num_particles}: must be at least 1',
        )
        require(
            0 <= config.num_negatives <= config.num_candidates - config.top_k,
            f'--agent.num_negatives={config.num_negatives}: must be from 0 to num_candidates - '
            f'top_k = {config.num_candidates - config.top_k}, so that no candidate is both',
        )
        require(config.q_weight >= 0, f'--agent.q_weight={config.q_weight}: must not be negative')

    @property
    def uses_top_k(self) -> bool:
        return self.online and super().uses_top_k

    def propose(self, actor_params, observations: jax.Array, num: int, rng) -> jax.Array:
        noise = jax.random.normal(rng, (*observations.shape[:-1], num, self.chunk_dim))
        chunks = self.actor.apply(actor_params, observations[..., None, :], noise)
        return jnp.clip(chunks, -1, 1)

    def actor_loss(self, actor_params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Drift losses of one set of G particles per state, and optionally −Q of them."""
        config = self.config
        particle_rng, candidate_rng = jax.random.split(rng)
        observations = batch['observations']
        particles = self.propose(actor_params, observations, config.num_particles, particle_rng)
        chunks, valid = self.chunks_of(batch)
        terms, info = {}, {}

        def drift(name, positives, **kwargs):
            # A chunk is one particle: a state whose chunk is not full takes no part.
            loss, drift_info = normalized_drifting_loss(
                particles,
                positives,
                temperatures=tuple(config.temperatures),
                state_mask=valid[:, -1],
                **kwargs,
            )
            info[f'actor/{name}_scale'] = drift_info['scale']
            for temperature, force in zip(config.temperatures, drift_info['force'], strict=True):
                info[f'actor/{name}_force_{temperature:g}'] = force
            return loss.mean()

        if config.data_weight or not self.online:
            weight = config.data_weight if self.online else 1.0
            terms['data'] = weight * drift('data', chunks[:, None])
        if self.uses_top_k:
            positives, kwargs = self.select_candidates(observations, candidate_rng)
            terms['topk'] = config.topk_weight * drift('topk', positives, **kwargs)
        if self.online and config.q_weight:
            values = self.critic.apply(self.params['critic'], observations[:, None], particles)
            terms['q'] = -config.q_weight * self.aggregate(values).mean()
        info |= {f'actor/{name}_loss': value for name, value in terms.items()}
        info['actor/saturated'] = jnp.mean(jnp.abs(particles) >= 1)
        return sum(terms.values(), jnp.zeros(())), info

    def select_candidates(self, observations: jax.Array, rng: jax.Array):
        """Draws N chunks from π_old and keeps the K best.

        Returns:
            The positives `[B, K, D]`, and the options of the drift loss that come with them: their
            weights `[B, K]` and the M worst candidates `[B, M, D]` as negatives, if asked for.
        """
        config = self.config
        candidates, values = self.ranked_candidates(observations, rng)
        options = {}
        if config.soft_weights:
            high, low = values[:, :1], values[:, -1:]
            relative = 2 * (values - low) / jnp.maximum(high - low, 1e-8) - 1
            options['weight_positives'] = jnp.maximum(relative[:, : config.top_k], 0)
        if config.num_negatives:
            options['negatives'] = candidates[:, -config.num_negatives :]
        return candidates[:, : config.top_k], options
