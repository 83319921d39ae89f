"""What every agent shares: Q-chunking (Li et al., 2025, arXiv 2507.07969).

A critic ensemble values whole chunks of actions, a policy proposes chunks, the agent acts by the
best of N proposals, and the same rule gives the critic its targets:

    y = R + γ^h · mask · agg_e Q_target,e(s', a*),   a* = argmax_a agg_e Q_e(s', a) over N proposals

A method is a subclass with an actor network, `propose` and `actor_loss`; `TopKAgent` adds what
those methods share whose policy also learns from the best proposals of a slow copy of itself. An
agent is a pytree and everything that changes it is a pure function of it, so `lax.scan` fuses many
updates into one dispatch, `vmap` trains many seeds at once, and a checkpoint is one tree.
"""

import dataclasses
from collections import namedtuple
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from utils.networks import MLP, Critic
from utils.replay import Batch

Info = dict[str, jax.Array]
SCORE_DTYPES = ('float32', 'bfloat16')


def static(**kwargs):
    """A field that is part of the program, not of the data: changing it compiles anew."""
    return flax.struct.field(pytree_node=False, **kwargs)


def base_config() -> ml_collections.ConfigDict:
    """Settings shared by all agents, at the paper's values.

    The chunk length and the discount belong to the run (`--horizon_length`, `--discount`): replay
    and environment need them as well.
    """
    return ml_collections.ConfigDict(
        {
            'lr': 3e-4,  # Adam's learning rate
            'batch_size': 256,
            'tau': 0.005,  # rate of the target critic
            'num_qs': 2,  # size of the critic ensemble
            'q_agg': 'mean',  # mean or min over the ensemble: targets and scores of candidates
            'score_dtype': 'float32',  # or bfloat16: of the critic when it compares proposals
            'num_samples': 16,  # N, proposals per state when acting and in the critic's target
            'actor_hidden_dims': (512, 512, 512, 512),
            'critic_hidden_dims': (512, 512, 512, 512),
            'actor_layer_norm': False,
            'critic_layer_norm': True,
            # False: the policy and the critic see one action, and h becomes the n of n-step returns
            'action_chunking': True,
        }
    )


class Agent(flax.struct.PyTreeNode, kw_only=True):
    """State and settings of an agent; see the module's docstring.

    `params` holds exactly what the optimiser trains, so nothing else has optimiser state.
    """

    rng: jax.Array
    params: dict[str, Any]  # {'critic': ..., 'actor': ...}
    target_critic: Any
    opt_state: Any
    critic: nn.Module = static()
    actor: nn.Module = static()
    config: NamedTuple = static()
    observation_dim: int = static()
    action_dim: int = static()
    horizon_length: int = static()
    discount: float = static()
    online: bool = static(default=False)

    # How many times (scalars, `[..., 1]` each) the actor takes besides observation and chunk.
    num_times: ClassVar[int] = 0

    # ---- what a method defines ------------------------------------------------------------------

    @classmethod
    def make_actor(cls, config: NamedTuple, chunk_dim: int) -> nn.Module:
        """Returns the network(s) of the policy for chunks of `chunk_dim` numbers."""
        return MLP(tuple(config.actor_hidden_dims), chunk_dim, config.actor_layer_norm)

    def propose(self, actor_params, observations: jax.Array, num: int, rng) -> jax.Array:
        """Draws `num` chunks `[..., num, D]` in [-1, 1] for `observations [..., d_s]`."""
        raise NotImplementedError

    def actor_loss(self, actor_params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the policy's loss; whatever is not to be trained is read from `self.params`."""
        raise NotImplementedError

    @classmethod
    def check_config(cls, config: ml_collections.ConfigDict) -> None:
        """Raises ValueError for settings that cannot work, naming the setting and the fix."""
        for name in ('batch_size', 'num_qs', 'num_samples'):
            require(config[name] >= 1, f'--agent.{name}={config[name]}: must be at least 1')
        for name in ('lr', 'tau'):
            require(0 < config[name] <= 1, f'--agent.{name}={config[name]}: must be in (0, 1]')
        for name in ('actor_hidden_dims', 'critic_hidden_dims'):
            sizes = tuple(config[name])
            require(
                bool(sizes) and min(sizes) >= 1,
                f'--agent.{name}={sizes}: needs at least one layer, each of size 1 or more',
            )
        for name, choices in (('q_agg', ('mean', 'min')), ('score_dtype', SCORE_DTYPES)):
            require(
                config[name] in choices,
                f'--agent.{name}={config[name]}: use {" or ".join(choices)}',
            )

    # ---- shared ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        seed: int,
        observation_dim: int,
        action_dim: int,
        config: ml_collections.ConfigDict,
        horizon_length: int,
        discount: float = 0.99,
    ) -> Self:
        """Makes an agent in its offline phase.

        Args:
            seed: of the parameters and of all the agent's later draws.
            observation_dim: d_s.
            action_dim: d_a, the size of one action.
            config: the method's `get_config()`, possibly changed.
            horizon_length: h, the number of actions in a chunk.
            discount: γ per environment step.

        Raises:
            ValueError: a setting cannot work.
        """
        require(horizon_length >= 1, f'--horizon_length={horizon_length}: must be at least 1')
        require(0 <= discount <= 1, f'--discount={discount}: must be in [0, 1]')
        cls.check_config(config)
        config = freeze(config)
        chunk_dim = action_dim * (horizon_length if config.action_chunking else 1)
        critic = Critic(tuple(config.critic_hidden_dims), config.num_qs, config.critic_layer_norm)
        actor = cls.make_actor(config, chunk_dim)
        state = cls._initial_state(
            critic, actor, config.lr, observation_dim, chunk_dim, jax.random.PRNGKey(seed)
        )
        return cls(
            critic=critic,
            actor=actor,
            config=config,
            observation_dim=observation_dim,
            action_dim=action_dim,
            horizon_length=horizon_length,
            discount=discount,
            **state,
        )

    @classmethod
    @partial(jax.jit, static_argnums=range(6))  # one program, not hundreds of small ones
    def _initial_state(cls, critic, actor, lr, observation_dim, chunk_dim, rng) -> dict[str, Any]:
        rng, critic_rng, actor_rng = jax.random.split(rng, 3)
        observations, chunks = jnp.zeros((1, observation_dim)), jnp.zeros((1, chunk_dim))
        times = [jnp.zeros((1, 1))] * cls.num_times
        params = {
            'critic': critic.init(critic_rng, observations, chunks),
            'actor': actor.init(actor_rng, observations, chunks, *times),
        }
        return {
            'rng': rng,
            'params': params,
            'target_critic': params['critic'],
            'opt_state': optax.adam(lr).init(params),
            **cls.extra_state(params),
        }

    @classmethod
    def extra_state(cls, params) -> dict[str, Any]:
        """Returns the fields that a method adds to the agent's state."""
        del params
        return {}

    @property
    def chunk_dim(self) -> int:
        """D, the size of what the policy decides on at once."""
        return self.policy_horizon * self.action_dim

    @property
    def policy_horizon(self) -> int:
        """Actions the policy decides on at once."""
        return self.horizon_length if self.config.action_chunking else 1

    def chunks_of(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the batch's chunks as the policy sees them, `[B, D]`, and `valid [B, h]`.

        What is not valid is zero in the chunks, whatever the batch holds there.
        """
        valid = batch['valid'][:, : self.policy_horizon]
        actions = jnp.where(valid[..., None], batch['actions'][:, : self.policy_horizon], 0.0)
        return actions.reshape(len(actions), -1), valid

    def entries(self, valid: jax.Array) -> jax.Array:
        """Returns the validity of each entry of a chunk, `[B, D]`, for `valid [B, h]`."""
        return jnp.repeat(valid, self.action_dim, axis=-1)

    def aggregate(self, values: jax.Array) -> jax.Array:
        """Reduces the ensemble axis of `values [E, ...]`."""
        return values.min(axis=0) if self.config.q_agg == 'min' else values.mean(axis=0)

    def score(self, observations: jax.Array, chunks: jax.Array) -> jax.Array:
        """Values `chunks [..., N, D]` at `observations [..., d_s]` by the online critic.

        For comparing them: in the precision of `score_dtype`, returned as float32.
        """
        inputs = self.params['critic'], observations[..., None, :], chunks
        inputs = jax.tree.map(lambda x: x.astype(self.config.score_dtype), inputs)
        return self.aggregate(self.critic.apply(*inputs).astype(jnp.float32))

    def act(self, observations: jax.Array, rng: jax.Array) -> jax.Array:
        """Returns the best of N proposals, `[..., D]`, for `observations [..., d_s]`."""
        num = self.config.num_samples
        chunks = self.propose(self.params['actor'], observations, num, rng)
        if num == 1:
            return chunks[..., 0, :]
        best = jnp.argmax(self.score(observations, chunks), axis=-1)
        return jnp.take_along_axis(chunks, best[..., None, None], axis=-2)[..., 0, :]

    def td_targets(self, batch: Batch, rng: jax.Array) -> jax.Array:
        """Returns y `[B]` (module docstring)."""
        chunks = self.act(batch['next_observations'], rng)
        values = self.critic.apply(self.target_critic, batch['next_observations'], chunks)
        bootstrap = self.discount**self.horizon_length * batch['masks']
        return batch['rewards'] + bootstrap * self.aggregate(values)

    def critic_loss(self, critic_params, batch: Batch, targets: jax.Array):
        """Mean squared TD error of the chunks that are valid to their end."""
        chunks, _ = self.chunks_of(batch)
        values = self.critic.apply(critic_params, batch['observations'], chunks)
        full = batch['valid'][:, -1]
        loss = jnp.mean(full * jnp.square(values - targets))
        return loss, {
            'critic/loss': loss,
            'critic/q_mean': values.mean(),
            'critic/q_max': values.max(),
            'critic/q_min': values.min(),
        }

    @jax.jit
    def update(self, batch: Batch) -> tuple[Self, Info]:
        """One gradient step on critic and actor, then one step of the target critic.

        Proposals and scores use the parameters before the step; the target critic follows the
        critic after it.

        Args:
            batch: from `ReplayBuffer.sample`.

        Returns:
            The new agent and scalars to log.
        """
        rng, target_rng, actor_rng = jax.random.split(self.rng, 3)
        targets = self.td_targets(batch, target_rng)

        def total_loss(params):
            critic_loss, critic_info = self.critic_loss(params['critic'], batch, targets)
            actor_loss, actor_info = self.actor_loss(params['actor'], batch, actor_rng)
            return critic_loss + actor_loss, critic_info | actor_info

        grads, info = jax.grad(total_loss, has_aux=True)(self.params)
        updates, opt_state = optax.adam(self.config.lr).update(grads, self.opt_state)
        params = optax.apply_updates(self.params, updates)
        target_critic = optax.incremental_update(
            params['critic'], self.target_critic, self.config.tau
        )
        agent = self.replace(
            rng=rng, params=params, target_critic=target_critic, opt_state=opt_state
        )
        return agent.after_update(), info

    def after_update(self) -> Self:
        """Moves the state that a method adds."""
        return self

    @jax.jit
    def sample_actions(self, observations: jax.Array, rng: jax.Array) -> jax.Array:
        """Returns chunks `[..., h, d_a]` to execute at `observations [..., d_s]`."""
        chunks = self.act(observations, rng)
        return chunks.reshape(*chunks.shape[:-1], self.policy_horizon, self.action_dim)

    def to_act(self) -> Self:
        """Returns what acting needs of the agent; less to hand over than all of it."""
        state = {f.name for f in dataclasses.fields(self) if f.metadata.get('pytree_node', True)}
        return self.replace(**dict.fromkeys(state - {'params'}))

    def begin_online(self) -> Self:
        """Returns the agent in its online phase."""
        return self.replace(online=True)


class TopKAgent(Agent, kw_only=True):
    """An agent whose policy also learns from the K best of N chunks that π_old proposes.

    `old_actor` is π_old, an exponential moving average of the actor, set to it when the online
    phase begins. The method's config has `num_candidates` (N), `top_k` (K; 0: none of this),
    `topk_weight` and `data_weight` (of the loss on those K, and on the data), and `ema_rate`.
    """

    old_actor: Any

    @classmethod
    def extra_state(cls, params) -> dict[str, Any]:
        return {'old_actor': params['actor']}

    @classmethod
    def check_config(cls, config: ml_collections.ConfigDict) -> None:
        super().check_config(config)
        require(
            0 <= config.top_k <= config.num_candidates,
            f'--agent.top_k={config.top_k}: must be from 0 to '
            f'--agent.num_candidates={config.num_candidates}',
        )
        for name in ('topk_weight', 'data_weight'):
            require(config[name] >= 0, f'--agent.{name}={config[name]}: must not be negative')
        require(0 < config.ema_rate <= 1, f'--agent.ema_rate={config.ema_rate}: must be in (0, 1]')

    @property
    def uses_top_k(self) -> bool:
        """Whether the loss has candidates in it; if not, none are drawn and π_old rests."""
        return bool(self.config.top_k and self.config.topk_weight)

    def ranked_candidates(self, observations: jax.Array, rng) -> tuple[jax.Array, jax.Array]:
        """Draws N chunks from π_old at `observations [B, d_s]`.

        Returns:
            The chunks `[B, N, D]` and their values `[B, N]`, best first.
        """
        num = self.config.num_candidates
        chunks = self.propose(self.old_actor, observations, num, rng)
        values, order = jax.lax.top_k(self.score(observations, chunks), num)
        return jnp.take_along_axis(chunks, order[..., None], axis=-2), values

    def after_update(self) -> Self:
        """π_old follows the policy."""
        if not self.uses_top_k:
            return self
        return self.replace(
            old_actor=optax.incremental_update(
                self.params['actor'], self.old_actor, self.config.ema_rate
            )
        )

    def begin_online(self) -> Self:
        """Returns the agent in its online phase, with π_old set to the policy."""
        old_actor = jax.tree.map(jnp.copy, self.params['actor'])
        return super().begin_online().replace(old_actor=old_actor)


def freeze(config: ml_collections.ConfigDict) -> NamedTuple:
    """Returns the settings as a named tuple, which jit compares 100 times as fast."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return namedtuple('Config', values)(**values)


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)
