"""Drifting Field Policy (Koo et al., 2026, arXiv 2605.07727).

The policy is one pass of a network: a = clip(f(s, ε)), ε ~ N(0, I). Its samples at a state are
called particles. A drifting field points from them to positives and away from each other, and the
network is trained to move its particles along that field (agents/drifting.py).

    offline  data term: the positive is the data set's chunk, which is behaviour cloning
    online   1.0 × data term, on chunks from replay
           + 0.5 × top-K term: the positives are the K best of N chunks that a slow copy of the
             policy (π_old) proposes, as ranked by the critic

Each term has a field of its choice. `normalized` is that of DFP's release: a joint softmax and a
length fixed over the batch. `mean_shift` is that of the paper: V = (mean shift to the positives) −
(mean shift to the other particles), each with its own softmax. For the data's one positive y

    V_i = (y − x_i) − Σ_{j≠i} w_ij (x_j − x_i),   w_i· = softmax_{j≠i} −‖x_i − x_j‖² / (2 τ² D)

whose pull is the whole displacement: a clone forms several times as fast, but it learns the data's
mean and not its modes (docs/method.md).

`topk_phases` puts the top-K term into the offline phase as well, or there alone, as in the paper's
pure offline RL (table 7).

A chunk of the data that an episode's end cuts short is no positive, so the data term leaves its
state out. The top-K term asks for no chunk of the data: it uses every state of the batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import (
    Info,
    Network,
    Params,
    actor_mlp,
    base_config,
    require,
    require_choice,
)
from agents.drifting import KERNELS, mean_shift_loss, normalized_drifting_loss
from agents.top_k import TopKAgent
from utils.replay import Batch
from utils.spec import Spec

FIELDS = ('normalized', 'mean_shift')


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of the paper's table on OGBench's cubes; Robomimic's differ."""
    config = base_config()
    config.agent_name = 'dfp'
    config.data_field = 'normalized'  # or mean_shift: the field of the data term
    config.topk_field = 'normalized'  # or mean_shift: the field of the top-K term
    config.temperatures = (0.1,)  # T, of the normalized field's kernel
    config.data_bandwidths = (0.2,)  # τ, of the data term's mean_shift field, in units of √D
    config.topk_bandwidths = (0.2,)  # τ, of the top-K term's
    config.kernel = 'gaussian'  # or laplace: of mean_shift fields
    config.num_particles = 8  # G, particles per state
    config.num_candidates = 16  # N, proposals of π_old per state
    config.top_k = 4  # K, the best of them, as positives; 0: there is no top-K term
    config.topk_weight = 0.5  # λ, of the top-K term
    config.topk_phases = 'online'  # or offline, or both: where there is a top-K term
    config.data_weight = 1.0  # of the data term in the online phase; offline it is 1
    config.ema_rate = 1e-4  # of π_old
    return config


class DFPAgent(TopKAgent, kw_only=True):
    """DFP on the shared best-of-N critic."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        for name in ('temperatures', 'data_bandwidths', 'topk_bandwidths'):
            values = tuple(getattr(config, name))
            require(
                bool(values) and all(isinstance(x, int | float) and x > 0 for x in values),
                f'--agent.{name}={values}: needs at least one number, each above 0',
            )
        for name in ('data_field', 'topk_field'):
            require_choice(name, getattr(config, name), FIELDS)
        require_choice('kernel', config.kernel, tuple(KERNELS))
        require(
            config.num_particles >= 1,
            f'--agent.num_particles={config.num_particles}: must be at least 1',
        )

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        return {'actor': actor_mlp(spec, config, spec.chunk_dim)}

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        return jnp.clip(self.network('actor', params, observations)(noise), -1, 1)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the sum of the terms in the module's docstring, and scalars to log.

        All terms move the same G particles per state. Each is a mean over the batch. A state that
        the data term leaves out counts as zero in the normalised field's, and not at all in the
        mean shift's.
        """
        config = self.config
        particle_rng, candidate_rng = jax.random.split(rng)
        observations = batch['observations']
        particles = self.propose(params, observations, config.num_particles, particle_rng)
        chunks, valid = self.masked_chunks(batch)
        terms, info = {}, {}

        if self.data_weight:
            is_full = valid[:, -1]
            loss, drift_info = self.drift_loss('data', particles, chunks[:, None], is_full)
            terms['data'] = self.data_weight * loss
            info |= drift_info
        if self.uses_top_k:
            candidates, _ = self.ranked_candidates(observations, candidate_rng)
            loss, drift_info = self.drift_loss('topk', particles, candidates[:, : config.top_k])
            terms['topk'] = config.topk_weight * loss
            info |= drift_info
        info |= {f'actor/{name}_loss': value for name, value in terms.items()}
        info['actor/saturated'] = jnp.mean(jnp.abs(particles) >= 1)
        return sum(terms.values(), jnp.zeros(())), info

    def drift_loss(
        self,
        term: str,
        particles: jax.Array,
        positives: jax.Array,
        state_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Info]:
        """Returns the drift loss of `particles [B, G, D]` towards `positives [B, P, D]`.

        Args:
            term: 'data' or 'topk', which chooses the field.
            particles: of the policy.
            positives: chunks that attract them.
            state_mask: `[B]`, the states that count; by default all.

        Returns:
            The mean over the batch, and to log: `force_<T or τ>` for each temperature or
            bandwidth, and the normalised field's `scale`.
        """
        if getattr(self.config, f'{term}_field') == 'normalized':
            widths = self.config.temperatures
            per_state, info = normalized_drifting_loss(
                particles, positives, temperatures=widths, state_mask=state_mask
            )
            loss = per_state.mean()
        else:
            widths = getattr(self.config, f'{term}_bandwidths')
            loss, info = mean_shift_loss(
                particles,
                positives,
                bandwidths=widths,
                kernel=self.config.kernel,
                root_d_units=True,
                state_mask=state_mask,
            )
        scalars = {
            f'force_{w:g}': force for w, force in zip(widths, info.pop('force'), strict=True)
        }
        return loss, {f'actor/{term}_{name}': x for name, x in (info | scalars).items()}
