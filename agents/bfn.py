"""Best-of-N flow policy, BFN; with chunks of actions QC-BFN (Li et al., 2025, arXiv 2507.07969).

Flow matching on the data trains a velocity field, offline and online: behaviour cloning. The
policy's loss does not use the critic; all improvement comes from playing the best of N samples.
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
    """Returns the settings of QC-BFN; BFN has num_samples=4 with --horizon_length=1."""
    config = base_config()
    config.agent_name = 'bfn'
    config.num_samples = 32  # N
    config.flow_steps = 10  # Euler steps of one sample
    return config


class BFNAgent(Agent, kw_only=True):
    """A behaviour flow on the shared best-of-N critic."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'flow_steps', least=1)

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        return {'actor': actor_mlp(spec, config, spec.chunk_dim, 1)}

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        velocity = self.network('actor', params, observations)
        return jnp.clip(integrate(velocity, noise, self.config.flow_steps), -1, 1)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the flow matching loss of the batch's valid actions, and scalars to log."""
        chunks, valid = self.masked_chunks(batch)
        velocity = self.network('actor', params, batch['observations'])
        loss = flow_matching_loss(velocity, chunks, self.entry_mask(valid), rng)
        return loss, {'actor/flow_loss': loss}
