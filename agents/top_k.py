"""What DFP and MVP share: a policy that also learns from the K best of N proposals.

The proposals come from π_old, a slow copy of the policy, and the critic ranks them.
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from agents.base import Agent, require


class TopKAgent(Agent, kw_only=True):
    """An agent whose policy also learns from the K best of N chunks that π_old proposes.

    π_old is an exponential moving average of the policy, and equal to it when the online phase
    begins. The method's config has `num_candidates` (N), `top_k` (K; 0 draws no candidates),
    `topk_weight` and `data_weight` (of the losses on the K best and on the data), and `ema_rate`.
    """

    old_actor: Any  # parameters of π_old

    @classmethod
    def extra_state(cls, params: dict[str, Any]) -> dict[str, Any]:
        return {'old_actor': params['actor']}

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require(
            0 <= config.top_k <= config.num_candidates,
            f'--agent.top_k={config.top_k}: must be from 0 to '
            f'--agent.num_candidates={config.num_candidates}',
        )
        for name in ('topk_weight', 'data_weight'):
            value = getattr(config, name)
            require(value >= 0, f'--agent.{name}={value}: must not be negative')
        require(0 < config.ema_rate <= 1, f'--agent.ema_rate={config.ema_rate}: must be in (0, 1]')

    @property
    def uses_top_k(self) -> bool:
        """Whether the loss has a top-K term. If not, nothing is drawn and π_old does not move."""
        return bool(self.config.top_k and self.config.topk_weight)

    def ranked_candidates(
        self, observations: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Draws N chunks from π_old at `observations [B, d_s]`.

        Returns:
            The chunks `[B, N, D]` and their values `[B, N]`, best first.
        """
        num = self.config.num_candidates
        chunks = self.propose(self.old_actor, observations, num, rng)
        values, order = jax.lax.top_k(self.score(observations, chunks), num)
        return jnp.take_along_axis(chunks, order[..., None], axis=-2), values

    def after_update(self) -> Self:
        """Returns the agent with π_old one step closer to the policy."""
        if not self.uses_top_k:
            return self
        return self.replace(
            old_actor=optax.incremental_update(
                self.params['actor'], self.old_actor, self.config.ema_rate
            )
        )

    def begin_online(self) -> Self:
        """Returns the agent in its online phase, with π_old equal to the policy."""
        old_actor = jax.tree.map(jnp.copy, self.params['actor'])
        return super().begin_online().replace(old_actor=old_actor)
