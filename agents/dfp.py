"""Drifting Field Policy (Koo et al., 2026, arXiv 2605.07727).

The policy turns noise into a chunk of actions in one network pass: a = clip(f(s, ε)), ε ~ N(0, I).
Its samples at a state are called particles. A drifting field pulls them towards good chunks, the
positives, and pushes them apart; the network learns to move its particles along that field
(agents/drifting.py).

    offline  data term: the positive is the data set's chunk, so the policy clones behaviour
    online   1.0 × data term, on chunks from replay
           + 0.5 × top-K term: a slow copy of the policy (π_old) proposes N chunks, the critic
             ranks them, and the K best are the positives

The data term skips states whose chunk is cut short by the end of an episode. The top-K term uses
every state. `topk_phases` can put it in the offline phase too, or only there (the paper's table 7).

Each term uses one of two fields. `normalized`, from DFP's release, has one joint softmax and a
fixed length over the batch. `mean_shift`, from the paper, subtracts the mean shift to the other
particles from the mean shift to the positives. With the data's single positive y it is

    V_i = (y − x_i) − Σ_{j≠i} w_ij (x_j − x_i),   w_i· = softmax_{j≠i} −‖x_i − x_j‖² / (2 τ² D)

It pulls by the whole displacement, so it clones several times as fast, but it learns the mean of
the data instead of its modes (docs/method.md).

Options beyond the paper are off by default (docs/method.md): move the K best up Q (`refine_step`),
adapt λ by a trust region (`trust_region`), edit the chunk that is played (`edit_scale`), maximise Q
(`q_weight`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.ascent import steps_up
from agents.base import (
    Info,
    Network,
    Params,
    actor_mlp,
    base_config,
    require_choice,
    require_range,
)
from agents.drifting import KERNELS, mean_shift_loss, normalized_drifting_loss
from agents.edit import EditedAgent, LogWeight
from agents.top_k import TopKAgent
from utils.replay import Batch
from utils.spec import Spec

FIELDS = ('normalized', 'mean_shift')


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of the paper's table on OGBench's cubes; Robomimic's differ."""
    config = base_config()
    config.agent_name = 'dfp'
    config.data_field = 'normalized'  # field of the data term; or mean_shift
    config.topk_field = 'normalized'  # field of the top-K term; or mean_shift
    config.temperatures = (0.1,)  # T of the normalized field's kernel
    config.data_bandwidths = (0.2,)  # τ of the data term's mean_shift field, in units of √D
    config.topk_bandwidths = (0.2,)  # τ of the top-K term's
    config.kernel = 'gaussian'  # of mean_shift fields; or laplace
    config.num_particles = 8  # G, particles per state
    config.num_candidates = 16  # N, proposals of π_old per state
    config.top_k = 4  # K, the best of them, used as positives; 0: no top-K term
    config.num_negatives = 0  # M, the worst of them, used as negatives in the top-K term
    config.soft_weights = False  # weight the K positives by their values
    config.refine_step = 0.0  # how far the K positives move up Q, root mean square over entries
    config.topk_weight = 0.5  # λ, weight of the top-K term
    config.trust_region = 0.0  # λ adapts to keep this distance to π_old; 0: λ is fixed
    config.topk_phases = 'online'  # phases with a top-K term; or offline, both
    config.data_weight = 1.0  # weight of the data term online; offline it is 1
    config.q_weight = 0.0  # weight of −Q of the particles online; 0: no such term
    config.ema_rate = 1e-4  # rate of π_old
    config.edit_scale = 0.0  # e, how far the learnt edit may change an entry; 0: no edit
    config.edit_all = False  # edit all N' proposals and then choose, not choose and then edit
    return config


class DFPAgent(EditedAgent, TopKAgent, kw_only=True):
    """DFP on the shared best-of-N critic."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'temperatures', 'data_bandwidths', 'topk_bandwidths', above=0)
        require_choice(config, FIELDS, 'data_field', 'topk_field')
        require_choice(config, tuple(KERNELS), 'kernel')
        require_range(config, 'num_particles', least=1)
        require_range(config, 'q_weight', 'refine_step', 'trust_region', least=0)
        # Not both one of the K best and one of the M worst.
        require_range(config, 'num_negatives', least=0, most=config.num_candidates - config.top_k)

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        networks = {'actor': actor_mlp(spec, config, spec.chunk_dim)}
        if config.trust_region:
            networks['log_factor'] = Network(LogWeight(), observes=False)
        return networks | super().networks(spec, config)

    def draft(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        return jnp.clip(self.network('actor', params, observations)(noise), -1, 1)

    def propose(self, params: Params, observations: Any, num: int, rng: jax.Array) -> jax.Array:
        """Draws `num` chunks `[..., num, D]`, unedited: only acting edits them."""
        noise = self.draw_noise(observations, num, rng, self.spec.chunk_dim)
        return self.draft(params, observations, noise)

    def best_of(self, observations: Any, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Chooses the best chunk of `noise [..., N, Z]`, edits it, and returns it with its value.

        With `edit_all` it edits all N first.
        """
        if not self.config.edit_scale or self.config.edit_all:
            return super().best_of(observations, noise)
        noise, edit_noise = jnp.split(noise, 2, axis=-1)
        chosen, _ = self.choose(observations, self.draft(self.params, observations, noise))
        edited, _ = self.edit(self.params, observations, chosen, edit_noise[..., 0, :])
        return edited, self.score(observations, edited[..., None, :])[..., 0]

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the sum of the terms in the module's docstring, and scalars to log.

        All terms move the same G particles per state, and each is a mean over the batch. States
        that the data term skips count as zero with the normalised field, and not at all with the
        mean shift.
        """
        config = self.config
        particle_rng, candidate_rng = jax.random.split(rng)
        observations = batch['observations']
        particles = self.propose(params, observations, config.num_particles, particle_rng)
        chunks, valid = self.masked_chunks(batch)
        is_full = valid[:, -1]
        played = particles[:, 0]  # a chunk like those that the edit sees when acting
        terms, info = {}, {}

        if self.data_weight:
            loss, drift_info = self.drift_loss(
                'data', particles, chunks[:, None], state_mask=is_full
            )
            terms['data'] = self.data_weight * loss
            info |= drift_info
        if self.uses_top_k:
            positives, options = self.top_k_positives(observations, candidate_rng)
            loss, drift_info = self.drift_loss('topk', particles, positives, **options)
            terms['topk'] = config.topk_weight * loss
            info |= drift_info
            if config.trust_region:
                old = self.propose(self.slow, observations, config.num_particles, particle_rng)
                factor, terms['trust_region'] = self.trust_region(params, particles, old)
                terms['topk'] *= factor
                info['actor/topk_weight'] = config.topk_weight * factor
            played = played if config.edit_all else positives[:, 0]
        if self.online and config.q_weight:
            values = self.network('critic', self.params, observations)(particles)
            terms['q'] = -config.q_weight * self.aggregate(values).mean()
        if config.edit_scale:
            noise = jax.random.normal(jax.random.fold_in(rng, 2), played.shape)
            terms['edit'], edit_info = self.edit_loss(params, observations, played, noise)
            info |= edit_info
        info |= {f'actor/{name}_loss': value for name, value in terms.items()}
        info['actor/saturated'] = jnp.mean(jnp.abs(particles) >= 1)
        return sum(terms.values(), jnp.zeros(())), info

    def drift_loss(
        self, term: str, particles: jax.Array, positives: jax.Array, **options: Any
    ) -> tuple[jax.Array, Info]:
        """Returns the drift loss of `particles [B, G, D]` towards `positives [B, P, D]`.

        Args:
            term: 'data' or 'topk'; its setting selects the field.
            particles: of the policy.
            positives: chunks that attract them.
            **options: of `normalized_drifting_loss` and `mean_shift_loss`.

        Returns:
            The mean over the batch, and scalars to log: `force_<T or τ>` for each temperature or
            bandwidth, and `scale` of the normalised field.
        """
        if getattr(self.config, f'{term}_field') == 'normalized':
            widths = self.config.temperatures
            per_state, info = normalized_drifting_loss(
                particles, positives, temperatures=widths, **options
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
                **options,
            )
        scalars = {
            f'force_{w:g}': force for w, force in zip(widths, info.pop('force'), strict=True)
        }
        return loss, {f'actor/{term}_{name}': x for name, x in (info | scalars).items()}

    def top_k_positives(
        self, observations: Any, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Draws N chunks from π_old at `observations [B, ...]` and keeps the K best `[B, K, D]`.

        Also returns options for `drift_loss`: with `num_negatives`, the M worst `[B, M, D]` are
        negatives; with `soft_weights`, the K weigh `[B, K]` from 1 for the best of all N down to 0
        for a value half-way to the worst.
        """
        config = self.config
        candidates, values = self.ranked_candidates(observations, rng)
        positives, options = candidates[:, : config.top_k], {}
        if config.num_negatives:
            options['negatives'] = candidates[:, -config.num_negatives :]
        if config.refine_step:
            critic = self.network('critic', self.slow, observations)
            length = config.refine_step * self.spec.chunk_dim**0.5
            positives = jnp.clip(positives + length * steps_up(critic, positives, 0.3), -1, 1)
        if config.soft_weights:
            best, worst = values[:, :1], values[:, -1:]
            relative = 2 * (values - worst) / jnp.maximum(best - worst, 1e-8) - 1
            options['weight_positives'] = jnp.maximum(relative[:, : config.top_k], 0)
        return positives, options
