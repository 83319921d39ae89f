"""Flow Q-learning, FQL (Park et al., 2025, arXiv 2502.02538).

With chunks of actions it is QC-FQL (Li et al., 2025, arXiv 2507.07969). A flow clones the data. A
one-step policy μ(s, z) acts, so acting takes one network pass: it learns to match the flow's output
for the same noise z, and to maximise the critic's value.

    L = L_flow + α ‖μ(s, z) − flow(s, z)‖² − Q(s, clip μ(s, z))
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, Info, Network, Params, actor_mlp, base_config, require_range
from utils.flows import flow_matching_loss, integrate
from utils.replay import Batch
from utils.spec import Spec


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of QC-FQL on cube-double; other domains have another α."""
    config = base_config()
    config.agent_name = 'fql'
    config.num_samples = 1  # μ acts by a single draw
    config.flow_steps = 10  # Euler steps of the flow
    config.alpha = 300.0  # α, weight of the distillation
    config.normalize_q_loss = False  # divide the Q term by the batch's mean |Q|
    return config


class FQLAgent(Agent, kw_only=True):
    """A behaviour flow and the one-step policy that acts."""

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        return {
            'flow': actor_mlp(spec, config, spec.chunk_dim, 1),
            'actor': actor_mlp(spec, config, spec.chunk_dim),
        }

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'flow_steps', least=1)
        require_range(config, 'alpha', least=0)

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        return jnp.clip(self.network('actor', params, observations)(noise), -1, 1)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the sum of flow matching, distillation and −Q, and scalars to log.

        Distillation and −Q share one noise z per state.
        """
        config, observations = self.config, batch['observations']
        flow_rng, noise_rng = jax.random.split(rng)
        chunks, valid = self.masked_chunks(batch)
        velocity = self.network('flow', params, observations)
        flow_loss = flow_matching_loss(velocity, chunks, self.entry_mask(valid), flow_rng)

        noise = jax.random.normal(noise_rng, chunks.shape)
        behaviour = self.network('flow', self.params, observations)
        flow_chunks = jnp.clip(integrate(behaviour, noise, config.flow_steps), -1, 1)
        policy_chunks = self.network('actor', params, observations)(noise)
        distillation_loss = jnp.mean(jnp.square(policy_chunks - flow_chunks))

        # As in FQL, the policy maximises the ensemble's mean even if targets use its minimum.
        critic = self.network('critic', self.params, observations)
        values = critic(jnp.clip(policy_chunks, -1, 1)).mean(axis=0)
        q_loss = -values.mean()
        if config.normalize_q_loss:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.abs(values).mean())
        return flow_loss + config.alpha * distillation_loss + q_loss, {
            'actor/flow_loss': flow_loss,
            'actor/distillation_loss': distillation_loss,
            'actor/q_loss': q_loss,
            'actor/saturated': jnp.mean(jnp.abs(policy_chunks) >= 1),
        }
