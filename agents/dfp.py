"""Drifting Field Policy (Koo et al., 2026, arXiv 2605.07727).

The policy is one pass of a network, a = clip(f(s, ε)), ε ~ N(0, I). It is trained by regressing
its particles onto themselves displaced by a drifting field, which points towards positives and
away from the policy's own particles (utils/drifting.py).

    offline  positives: the chunk of the data set, so plain behaviour cloning
    online   1.0 × the same, on the replay batch
           + 0.5 × the same particles towards the K best of N chunks that a slow copy of the
             policy (π_old) proposes, as scored by the critic
"""

from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from agents.base import Agent, Info, base_config, require
from utils.drifting import normalized_drifting_loss
from utils.networks import MLP
from utils.replay import Batch


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of the paper's table."""
    config = base_config()
    config.agent_name = 'dfp'
    config.temperatures = (0.1,)  # T, of the kernel
    config.num_particles = 8  # G, fresh particles per state
    config.num_candidates = 16  # N, chunks that π_old proposes per state
    config.top_k = 4  # K, of which are positives
    config.num_negatives = 0  # M, lowest of the N as explicit negatives of the top-K term
    config.soft_weights = False  # weigh the K positives by their value
    config.topk_weight = 0.5  # of the top-K term; 0: no candidates are drawn
    config.data_weight = 1.0  # of the term on the replay batch's chunk
    config.q_weight = 0.0  # of a direct −Q term in the online phase
    config.ema_rate = 1e-4  # of π_old
    return config


class DFPAgent(Agent, kw_only=True):
    """DFP on the shared best-of-N critic; `old_actor` is π_old."""

    old_actor: Any

    @classmethod
    def make_actor(cls, config, chunk_dim: int) -> nn.Module:
        return MLP(tuple(config.actor_hidden_dims), chunk_dim, config.actor_layer_norm)

    @classmethod
    def extra_state(cls, params) -> dict[str, Any]:
        return {'old_actor': jax.tree.map(jnp.copy, params['actor'])}

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
            1 <= config.top_k <= config.num_candidates,
            f'--agent.top_k={config.top_k}: must be from 1 to '
            f'--agent.num_candidates={config.num_candidates}',
        )
        require(
            0 <= config.num_negatives <= config.num_candidates - config.top_k,
            f'--agent.num_negatives={config.num_negatives}: must be from 0 to num_candidates - '
            f'top_k = {config.num_candidates - config.top_k}, so that no candidate is both',
        )
        for name in ('topk_weight', 'data_weight', 'q_weight'):
            require(config[name] >= 0, f'--agent.{name}={config[name]}: must not be negative')
        require(0 < config.ema_rate <= 1, f'--agent.ema_rate={config.ema_rate}: must be in (0, 1]')

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
        if self.online and config.topk_weight:
            candidates, kwargs = self.select_candidates(observations, candidate_rng)
            terms['topk'] = config.topk_weight * drift('topk', candidates, **kwargs)
        if self.online and config.q_weight:
            terms['q'] = -config.q_weight * self.score(observations, particles).mean()
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
        candidates = self.propose(self.old_actor, observations, config.num_candidates, rng)
        values = self.score(observations, candidates)
        best_values, best = jax.lax.top_k(values, config.top_k)
        options = {}
        if config.soft_weights:
            low, high = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
            relative = 2 * (best_values - low) / jnp.maximum(high - low, 1e-8) - 1
            options['weight_positives'] = jnp.maximum(relative, 0)
        if config.num_negatives:
            _, worst = jax.lax.top_k(-values, config.num_negatives)
            options['negatives'] = jnp.take_along_axis(candidates, worst[..., None], axis=-2)
        return jnp.take_along_axis(candidates, best[..., None], axis=-2), options

    def after_update(self) -> Self:
        """π_old follows the policy online; offline nothing reads it."""
        if not (self.online and self.config.topk_weight):
            return self
        return self.replace(
            old_actor=optax.incremental_update(
                self.params['actor'], self.old_actor, self.config.ema_rate
            )
        )

    def begin_online(self) -> Self:
        """Returns the agent in its online phase, with π_old set to the policy."""
        return (
            super().begin_online().replace(old_actor=jax.tree.map(jnp.copy, self.params['actor']))
        )
