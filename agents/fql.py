"""Flow Q-learning, FQL (Park et al., 2025, arXiv 2502.02538).

With chunks of actions it is QC-FQL (Li et al., 2025, arXiv 2507.07969). A flow is trained on the
data by flow matching. A one-step policy μ(s, z) acts: it is trained to give what the flow makes of
the same noise z, and to raise the critic's value. So acting takes one pass of one network:

    L = L_flow + α ‖μ(s, z) − flow(s, z)‖² − Q(s, clip μ(s, z))
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, Info, base_config, require
from utils.flows import Velocity, flow_matching_loss, integrate
from utils.networks import MLP, apply_network
from utils.replay import Batch


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of QC-FQL on cube-double; other domains have another α."""
    config = base_config()
    config.agent_name = 'fql'
    config.num_samples = 1  # μ acts by a single draw
    config.flow_steps = 10  # Euler steps of the flow
    config.alpha = 300.0  # α, strength of the distillation
    config.normalize_q_loss = False  # divide the Q term by the batch's mean absolute value of Q
    return config


class FlowAndOneStep(nn.Module):
    """The behaviour flow's velocity field and the one-step policy."""

    hidden_dims: Sequence[int]
    chunk_dim: int
    layer_norm: bool

    def setup(self):
        self._flow = MLP(self.hidden_dims, self.chunk_dim, self.layer_norm)
        self._one_step = MLP(self.hidden_dims, self.chunk_dim, self.layer_norm)

    def __call__(
        self, observations: jax.Array, x: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns both networks' outputs; only initialisation needs them together."""
        return self.velocity(observations, x, t), self.one_step(observations, x)

    def velocity(self, observations: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        """Returns dx/dt `[..., D]` at `x [..., D]`, `t [..., 1]`."""
        return self._flow(observations, x, t)

    def one_step(self, observations: jax.Array, noise: jax.Array) -> jax.Array:
        """Returns μ(s, z) `[..., D]`, not clipped."""
        return self._one_step(observations, noise)


class FQLAgent(Agent, kw_only=True):
    """A behaviour flow and the one-step policy that acts."""

    num_times = 1

    @classmethod
    def make_actor(cls, config: Any, chunk_dim: int) -> nn.Module:
        return FlowAndOneStep(tuple(config.actor_hidden_dims), chunk_dim, config.actor_layer_norm)

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require(
            config.flow_steps >= 1, f'--agent.flow_steps={config.flow_steps}: must be at least 1'
        )
        require(config.alpha >= 0, f'--agent.alpha={config.alpha}: must not be negative')

    def velocity_field(self, actor_params: Any, observations: jax.Array) -> Velocity:
        """Returns the field `(x [..., D], t [..., 1]) -> [..., D]` at `observations [..., d_s]`."""
        return lambda x, t: apply_network(
            self.actor, actor_params, observations, x, t, method='velocity'
        )

    def one_step(self, actor_params: Any, observations: jax.Array, noise: jax.Array) -> jax.Array:
        """Returns μ(s, z) `[..., D]`, not clipped, for `noise [..., D]`."""
        return apply_network(self.actor, actor_params, observations, noise, method='one_step')

    def generate(self, actor_params: Any, observations: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.clip(self.one_step(actor_params, observations[..., None, :], noise), -1, 1)

    def actor_loss(self, actor_params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the sum of flow matching, distillation and −Q, and scalars to log.

        Distillation and −Q share one noise z per state.
        """
        config, observations = self.config, batch['observations']
        flow_rng, noise_rng = jax.random.split(rng)
        chunks, valid = self.masked_chunks(batch)
        velocity = self.velocity_field(actor_params, observations)
        flow_loss = flow_matching_loss(velocity, chunks, self.entry_mask(valid), flow_rng)

        noise = jax.random.normal(noise_rng, chunks.shape)
        behaviour = self.velocity_field(self.params['actor'], observations)
        flow_chunks = jnp.clip(integrate(behaviour, noise, config.flow_steps), -1, 1)
        policy_chunks = self.one_step(actor_params, observations, noise)
        distillation_loss = jnp.mean(jnp.square(policy_chunks - flow_chunks))

        # As in FQL, the policy climbs the ensemble's mean even if targets use its minimum.
        values = apply_network(
            self.critic, self.params['critic'], observations, jnp.clip(policy_chunks, -1, 1)
        ).mean(axis=0)
        q_loss = -values.mean()
        if config.normalize_q_loss:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.abs(values).mean())
        return flow_loss + config.alpha * distillation_loss + q_loss, {
            'actor/flow_loss': flow_loss,
            'actor/distillation_loss': distillation_loss,
            'actor/q_loss': q_loss,
            'actor/saturated': jnp.mean(jnp.abs(policy_chunks) >= 1),
        }
