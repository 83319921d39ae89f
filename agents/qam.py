"""Q-learning with adjoint matching, QAM (Li and Levine, 2026, arXiv 2601.14234).

A slow flow (velocity v_β, its slow copy v̄_β) clones the data, and a fast one, v_θ, is the policy,
which maximises Q under a KL penalty to the clone. Its regression target comes from an adjoint
equation that involves only the clone, so no gradient goes through the policy's own steps. With T
steps of size δ = 1/T, t_i = i δ and σ_i² = 2 (1 − t_i + δ) / (t_i + δ):

    x_{i+1} = x_i + δ (2 v_θ(x_i, t_i) − x_i / (t_i + δ)) + √δ σ_i ε_i,     x_0, ε_i ~ N(0, I)
    x_T     = x_{T−1} + δ v̄_β(x_{T−1}, t_{T−1})
    ã_T     = −inv_temp · ∇ mean_e Q_target,e(s, clip x_T)
    ã_i     = ã_{i+1} + δ Jᵀ ã_{i+1},   J = ∂/∂x [2 v̄_β(x, t_i + δ) − x / (t_i + δ)] at x_i
    L       = Σ_i ‖(v_θ(x_i, t_i) − v̄_β(x_i, t_i)) 2/σ_i + σ_i ã_i‖²

summed over entries and averaged over states. Variants:

- QAM-E (`edit_scale` e > 0) adds a learnt edit to the flow's chunk, clip(a + e δ) (agents/edit.py).
- QAM-F (`alpha` > 0) acts by a one-step policy, as in FQL: distilled from v_θ and maximising Q.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Info, Network, Params, actor_mlp, base_config, require, require_range
from agents.edit import EditedAgent
from utils.flows import flow_matching_loss, integrate
from utils.replay import Batch
from utils.spec import Spec


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of QAM on cube-double; methods.toml has the other tasks'."""
    config = base_config()
    config.agent_name = 'qam'
    config.update(num_qs=10, q_agg='mean_std', rank_agg='mean', grad_clip=1.0, num_samples=1)
    config.flow_steps = 10  # T
    config.inv_temp = 1.0  # weight of Q against the KL to the clone; 0: the clone acts
    config.edit_scale = 0.0  # e of QAM-E; 0: no edit
    config.alpha = 0.0  # strength of QAM-F's distillation; 0: no one-step policy
    return config


class QAMAgent(EditedAgent, kw_only=True):
    """Two flows on the shared critic, by itself, with an edit, or with a one-step policy."""

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        flow = actor_mlp(spec, config, spec.chunk_dim, 1)
        networks = {'slow': flow, 'fast': flow} | super().networks(spec, config)
        if config.alpha:
            networks['one_step'] = actor_mlp(spec, config, spec.chunk_dim)
        return networks

    @classmethod
    def slow_copies(cls, config: Any, online: bool) -> dict[str, float]:
        return super().slow_copies(config, online) | {'slow': config.tau}

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'flow_steps', least=1)
        require_range(config, 'inv_temp', 'alpha', least=0)
        require(
            not (config.edit_scale and config.alpha),
            f'--agent.alpha={config.alpha}: cannot be combined with an edit; set edit_scale to 0',
        )

    def flow(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        """Returns `noise [..., D]` carried along the policy's flow, clipped to [-1, 1]."""
        name = 'fast' if self.config.inv_temp else 'slow'
        velocity = self.network(name, params, observations)
        return jnp.clip(integrate(velocity, noise, self.config.flow_steps), -1, 1)

    def draft(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        if self.config.alpha:
            return jnp.clip(self.network('one_step', params, observations)(noise), -1, 1)
        return self.flow(params, observations, noise)

    def adjoints(self, observations: Any, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the path x and its adjoints ã, `[B, T, D]` each, at `observations [B, ...]`."""
        num_steps, step = self.config.flow_steps, 1 / self.config.flow_steps
        fast = self.network('fast', self.params, observations)
        clone = self.network('slow', self.slow, observations)
        start_rng, *rngs = jax.random.split(rng, num_steps)
        size = jax.tree.leaves(observations)[0].shape[0]
        x, path = jax.random.normal(start_rng, (size, self.spec.chunk_dim)), []
        for i in range(num_steps - 1):
            path.append(x)
            t = jnp.full((1,), i * step)
            noise = jax.random.normal(rngs[i], x.shape)
            drift = 2 * fast(x, t) - x / (t + step)
            x = x + step * drift + jnp.sqrt(step) * self.sigmas[i] * noise
        path.append(x)
        x = x + step * clone(x, jnp.full((1,), 1 - step))

        critic = self.network('critic', self.slow, observations)
        gradient = jax.grad(lambda x: critic(jnp.clip(x, -1, 1)).mean(axis=0).sum())(x)
        adjoint, adjoints = -self.config.inv_temp * gradient, []
        for i in reversed(range(num_steps)):
            after = jnp.full((1,), (i + 1) * step)
            _, pull_back = jax.vjp(lambda x, t=after: 2 * clone(x, t) - x / t, path[i])
            adjoint = adjoint + step * pull_back(adjoint)[0]
            adjoints.insert(0, adjoint)
        return jnp.stack(path, axis=1), jnp.stack(adjoints, axis=1)

    @property
    def sigmas(self) -> jax.Array:
        """σ `[T]`."""
        step = 1 / self.config.flow_steps
        after = jnp.arange(1, self.config.flow_steps + 1) * step
        return jnp.sqrt(2 * (1 - after + 2 * step) / after)

    def adjoint_loss(self, params: Params, observations: Any, rng: jax.Array) -> jax.Array:
        """Returns the regression loss L of v_θ in the module's docstring."""
        path, adjoints = jax.lax.stop_gradient(self.adjoints(observations, rng))
        times = (jnp.arange(self.config.flow_steps) / self.config.flow_steps)[:, None]
        fast = self.network('fast', params, observations)(path, times)
        clone = self.network('slow', self.slow, observations)(path, times)
        sigmas = self.sigmas[:, None]
        errors = (fast - clone) * 2 / sigmas + sigmas * adjoints
        return jnp.square(errors).sum(axis=(1, 2)).mean()

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the losses of both flows and of the variant's network, and scalars to log."""
        observations = batch['observations']
        slow_rng, fast_rng, noise_rng = jax.random.split(rng, 3)
        chunks, valid = self.masked_chunks(batch)
        is_full = jnp.broadcast_to(valid[:, -1:], chunks.shape)
        slow = self.network('slow', params, observations)
        info = {
            'actor/flow_loss': flow_matching_loss(slow, chunks, is_full, slow_rng),
            'actor/adjoint_loss': self.adjoint_loss(params, observations, fast_rng),
        }
        loss = info['actor/flow_loss'] + info['actor/adjoint_loss']
        noise = jax.random.normal(noise_rng, (len(chunks), self.noise_dim))
        if self.config.edit_scale:
            flow_noise, edit_noise = jnp.split(noise, 2, axis=-1)
            drafts = self.draft(self.params, observations, flow_noise)
            edit_loss, edit_info = self.edit_loss(params, observations, drafts, edit_noise)
            return loss + edit_loss, info | edit_info
        if self.config.alpha:
            distilled = self.network('one_step', params, observations)(noise)
            flow = self.flow(self.params, observations, noise)
            info['actor/distillation_loss'] = jnp.mean(jnp.square(distilled - flow))
            values = self.network('critic', self.params, observations)(jnp.clip(distilled, -1, 1))
            info['actor/q_loss'] = -values.mean()
            loss += self.config.alpha * info['actor/distillation_loss'] + info['actor/q_loss']
        return loss, info
