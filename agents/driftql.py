"""DriftQL (2026, arXiv 2606.00350): a one-step policy that drifts to the data and maximises Q.

    L = α · mean (x_i − sg clip(x_i + V_i))² − mean_e Q_e(s, f(s, z)),   x_i = f(s, z_i) = clip net

The particles x_1 … x_G share a state with one action a⁺ of the data. With kernel k

    V_i = (a⁺ − x_i) − Σ_j w_ij (x_j − x_i),   w_i· = softmax_{j≠i} log k(x_i, x_j)

The kernel's bandwidth is in units of √D (agents/drifting.py). −Q uses one more sample per state.
The method is for offline RL with single actions: `--horizon_length=1 --online_steps=0`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import (
    Agent,
    Info,
    Network,
    Params,
    actor_mlp,
    base_config,
    require_choice,
    require_range,
)
from agents.drifting import KERNELS, mean_shift_loss
from utils.replay import Batch
from utils.spec import Spec


def get_config() -> ml_collections.ConfigDict:
    """Returns settings in the range of those that methods.toml has for its tasks."""
    config = base_config()
    config.agent_name = 'driftql'
    config.num_samples = 1
    config.alpha = 100.0  # α, weight of the drift against −Q
    config.num_particles = 32  # G, particles per state
    config.kernel = 'gaussian'  # or laplace
    config.bandwidth = 0.2  # τ of the kernel, in units of √D
    config.noise_dim = 0  # size of a chunk's noise; 0: as large as the chunk
    return config


class DriftQLAgent(Agent, kw_only=True):
    """A one-step policy that drifts to the data, on the shared critic."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'alpha', 'noise_dim', least=0)
        require_range(config, 'num_particles', least=1)
        require_range(config, 'bandwidth', above=0)
        require_choice(config, tuple(KERNELS), 'kernel')

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        return {'actor': actor_mlp(spec, config, config.noise_dim or spec.chunk_dim)}

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(1, `noise_dim`), or by default the shape of a chunk."""
        return (1, self.config.noise_dim) if self.config.noise_dim else self.spec.chunk

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        return jnp.clip(self.network('actor', params, observations)(noise), -1, 1)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the loss in the module's docstring, and scalars to log.

        States whose chunk is cut short by the end of an episode have no drift.
        """
        config, observations = self.config, batch['observations']
        drift_rng, q_rng = jax.random.split(rng)
        chunks, valid = self.masked_chunks(batch)
        drift_loss, info = mean_shift_loss(
            self.propose(params, observations, config.num_particles, drift_rng),
            chunks[:, None],
            bandwidths=(config.bandwidth,),
            kernel=config.kernel,
            root_d_units=True,
            state_mask=valid[:, -1],
        )
        climbing = self.propose(params, observations, 1, q_rng)
        q_loss = -self.network('critic', self.params, observations)(climbing).mean()
        return config.alpha * drift_loss + q_loss, {
            'actor/drift_loss': drift_loss,
            'actor/drift_force': info['force'][0],
            'actor/q_loss': q_loss,
        }
