"""A learnt edit of a policy's proposals, as in QAM-E (arXiv 2601.14234): clip(a + e δ).

δ ∈ (−1, 1)^D is the tanh of a Gaussian; a network gives its mean and width at (s, a). The loss is
−Q with an entropy bonus, whose weight α is trained to keep the entropy at −D/2:

    −mean_e Q_e(s, clip(a + e δ)) − sg(α) H + α (sg(H) + D/2),   H = −log p(δ)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from agents.base import Agent, Info, Network, Params, require_range
from utils.networks import ConcatDense
from utils.spec import Spec


class Edit(nn.Module):
    """Mean and log standard deviation `[..., D]` of a Gaussian. The edit is its tanh."""

    hidden_dims: tuple[int, ...]
    chunk_dim: int

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        for size in self.hidden_dims:
            inputs = (nn.gelu(ConcatDense(size)(*inputs), approximate=True),)
        mean, log_std = (
            ConcatDense(self.chunk_dim, name=name)(*inputs) for name in ('mean', 'log_std')
        )
        return mean, jnp.clip(log_std, -20, 2)


class LogWeight(nn.Module):
    """The logarithm of a trained weight, initially 0."""

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param('log_value', nn.initializers.zeros_init(), ())


class EditedAgent(Agent, kw_only=True):
    """An agent that edits its chunks if `edit_scale` (e) is above 0.

    A method defines `draft` instead of `generate`, and adds `edit_loss` to its loss.
    """

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        if not config.edit_scale:
            return {}
        edit = Edit(tuple(config.actor_hidden_dims), spec.chunk_dim)
        return {
            'edit': Network(edit, (spec.chunk_dim,)),
            'log_alpha': Network(LogWeight(), observes=False),
        }

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'edit_scale', least=0)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The noise of a chunk, followed by the noise of its edit if there is one."""
        horizon, action_dim = self.spec.chunk
        return (2 * horizon if self.config.edit_scale else horizon), action_dim

    def draft(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        """Turns `noise [..., N, D]` into chunks `[..., N, D]` in [-1, 1], before any edit."""
        raise NotImplementedError

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        if not self.config.edit_scale:
            return self.draft(params, observations, noise)
        noise, edit_noise = jnp.split(noise, 2, axis=-1)
        chunks = self.draft(params, observations, noise)
        return self.edit(params, observations, chunks, edit_noise)[0]

    def edit(
        self, params: Params, observations: Any, chunks: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns edited `chunks [..., D]`, and the log density `[...]` of their edits."""
        mean, log_std = self.network('edit', params, observations)(chunks)
        u = mean + jnp.exp(log_std) * noise
        edit = jnp.tanh(u)
        log_density = -0.5 * (noise**2 + jnp.log(2 * jnp.pi)) - log_std
        log_density -= 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))  # log of tanh's slope
        edited = jnp.clip(chunks + self.config.edit_scale * edit, -1, 1)
        return edited, log_density.sum(axis=-1)

    def edit_loss(
        self, params: Params, observations: Any, chunks: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, Info]:
        """Returns the loss of the edits of `chunks [B, D]` and of α, and scalars to log.

        The edits use `noise [B, D]`; the chunks have no gradient.
        """
        edited, log_density = self.edit(params, observations, stop_gradient(chunks), noise)
        alpha = jnp.exp(self.modules['log_alpha'].apply(params['log_alpha']))
        entropy = -log_density.mean()
        q_loss = -self.network('critic', self.params, observations)(edited).mean()
        excess = stop_gradient(entropy) + 0.5 * self.spec.chunk_dim
        return q_loss - stop_gradient(alpha) * entropy + alpha * excess, {
            'actor/edit_q_loss': q_loss,
            'actor/edit_entropy': entropy,
            'actor/edit_alpha': alpha,
        }
