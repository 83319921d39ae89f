"""What DFP and MVP share: a policy that also learns from the K best of N proposals.

The proposals come from π_old, a slow copy of the policy, and the critic ranks them.
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from agents.base import Agent, Info, Params, require_choice, require_range
from utils.replay import Batch

TOPK_PHASES = ('online', 'both', 'offline')
MAX_LOG_FACTOR = 4.6  # a trust region changes λ by a factor of 100 at most


class TopKAgent(Agent, kw_only=True):
    """An agent whose policy also learns from the K best of N chunks that π_old proposes.

    π_old is an exponential moving average of the policy over the phases that use it. It starts as
    the policy, and is reset to it when the online phase begins.

    The method's config has `num_candidates` (N), `top_k` (K; 0 draws no candidates), `topk_phases`
    (phases with a loss on the K best), `topk_weight` (of that loss), `data_weight` (of the loss on
    the data in the online phase; offline it is 1), and `ema_rate`.
    """

    @classmethod
    def slow_copies(cls, config: Any, online: bool) -> dict[str, float]:
        rate = config.ema_rate if uses_top_k(config, online) else 0.0
        return super().slow_copies(config, online) | {'actor': rate}

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        require_range(config, 'top_k', least=0, most=config.num_candidates)
        require_choice(config, TOPK_PHASES, 'topk_phases')
        require_range(config, 'topk_weight', 'data_weight', least=0)
        require_range(config, 'ema_rate', above=0, most=1)

    @property
    def uses_top_k(self) -> bool:
        """Whether the loss has a top-K term in this phase.

        If not, nothing is drawn and π_old does not move.
        """
        return uses_top_k(self.config, self.online)

    @property
    def data_weight(self) -> float:
        """The weight of the loss on the data in this phase."""
        return self.config.data_weight if self.online else 1.0

    def ranked_candidates(self, observations: Any, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws N chunks from π_old at `observations [B, ...]`.

        Returns:
            The chunks `[B, N, D]` and their values `[B, N]`, best first.
        """
        num = self.config.num_candidates
        chunks = self.propose(self.slow, observations, num, rng)
        values, order = jax.lax.top_k(self.score(observations, chunks), num)
        return jnp.take_along_axis(chunks, order[..., None], axis=-2), values

    def trust_region(
        self, params: Params, particles: jax.Array, old: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns a factor of λ that keeps the policy near π_old, and the loss that trains it.

        The factor falls while the root mean square distance from `particles [B, G, D]` to π_old's
        particles of the same noise, `old`, is above `trust_region`, and rises while it is below.
        This is the dual ascent of TRQAM (arXiv 2605.27079), by the agent's optimiser on a network
        `log_factor` (`LogWeight`), which a method with a `trust_region` declares.
        """
        log_factor = self.modules['log_factor'].apply(params['log_factor'])
        squared = jnp.square(particles - old).mean()
        excess = jnp.clip(squared / self.config.trust_region**2, 0, 2) - 1
        goes_on = (jnp.abs(log_factor) < MAX_LOG_FACTOR) | (log_factor * excess > 0)
        return jnp.exp(stop_gradient(log_factor)), log_factor * stop_gradient(goes_on * excess)

    def diagnose(self, batch: Batch, rng: jax.Array) -> Info:
        """Adds `policy/distance_to_old` in phases with a top-K term.

        It is the root mean square difference per entry between chunks of the policy and of π_old
        from the same noise.
        """
        info = super().diagnose(batch, rng)
        if not self.uses_top_k:
            return info
        new, old = (
            self.propose(params, batch['observations'], self.config.num_candidates, rng)
            for params in (self.params, self.slow)
        )
        return info | {'policy/distance_to_old': jnp.sqrt(jnp.square(new - old).mean())}

    def begin_online(self) -> Self:
        """Returns the agent in its online phase, with π_old equal to the policy."""
        return super().begin_online().renew_slow('actor')


def uses_top_k(config: Any, online: bool) -> bool:
    """Whether the loss has a top-K term in a phase."""
    phases = ('both', 'online' if online else 'offline')
    return bool(config.top_k and config.topk_weight) and config.topk_phases in phases
