"""What every agent shares: Q-chunking (Li et al., 2025, arXiv 2507.07969).

A critic ensemble values whole chunks of actions. A policy proposes chunks, and the agent executes
the best of N proposals. The critic's targets use the same rule:

    y = R + γ^h · mask · agg_e Q_target,e(s', a*),   a* = argmax_a agg_e Q_e(s', a) over N proposals

agg is the mean, the minimum, or the mean − ρ · standard deviation over the ensemble, the same to
form targets and to rank proposals. The last is how QAM (arXiv 2601.14234) forms targets, with ten
members and ρ = 0.5. N may differ between targets, online play and evaluation.

A method is a subclass with an actor network, `generate` and `actor_loss`. Methods whose policy also
learns from its best proposals derive from `TopKAgent` (agents/top_k.py).

An agent is a pytree, and everything that changes it is a pure function. So `lax.scan` fuses many
updates into one dispatch, `vmap` trains many seeds at once, and a checkpoint is one tree.

Shapes: B states in a batch, chunks of h actions of size d_a, observations of size d_s. D = h · d_a
is the size of a flattened chunk (d_a without action chunking), E the size of the critic ensemble.
"""

import dataclasses
from collections import namedtuple
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from utils.errors import UserError
from utils.keys import key_for
from utils.networks import MLP, Critic, apply_network
from utils.replay import Batch
from utils.shapes import check_shape, check_shapes

Info = dict[str, jax.Array]
Q_AGGS = ('mean', 'min', 'mean_std')
SCORE_DTYPES = ('float32', 'bfloat16')


def static_field(**kwargs: Any) -> Any:
    """Returns a field that is part of the compiled program: another value compiles it anew."""
    return flax.struct.field(pytree_node=False, **kwargs)


def base_config() -> ml_collections.ConfigDict:
    """Returns the settings that all agents share, at the paper's values.

    The chunk length and the discount are settings of the run (`--horizon_length`, `--discount`),
    because replay and environments need them as well.
    """
    return ml_collections.ConfigDict(
        {
            'lr': 3e-4,  # Adam's learning rate
            'batch_size': 256,
            'tau': 0.005,  # rate of the target critic
            'num_qs': 2,  # E, size of the critic ensemble
            # mean, min or mean_std (mean - rho * std) over it, for targets and to rank proposals
            'q_agg': 'mean',
            'rho': 0.5,  # ρ of mean_std
            'score_dtype': 'float32',  # or bfloat16: the critic's precision when it ranks proposals
            'num_samples': 16,  # N' in the paper: proposals per state, the best of which is played
            'target_num_samples': 0,  # that of the critic's targets; 0: num_samples
            'eval_num_samples': 0,  # that of evaluation, videos and export; 0: num_samples
            'actor_hidden_dims': (512, 512, 512, 512),
            'critic_hidden_dims': (512, 512, 512, 512),
            'actor_layer_norm': False,
            'critic_layer_norm': True,
            # False: policy and critic decide on one action, and h is the n of n-step returns
            'action_chunking': True,
        }
    )


class Agent(flax.struct.PyTreeNode, kw_only=True):
    """State and settings of an agent; the module's docstring says how it acts and learns.

    `params` holds exactly what the optimiser trains, so nothing else has optimiser state.
    """

    rng: jax.Array
    params: dict[str, Any]  # {'critic': ..., 'actor': ...}
    target_critic: Any
    opt_state: Any
    critic: nn.Module = static_field()
    actor: nn.Module = static_field()
    config: Any = static_field()  # a named tuple, see `freeze`
    observation_dim: int = static_field()
    action_dim: int = static_field()
    horizon_length: int = static_field()
    discount: float = static_field()
    online: bool = static_field(default=False)

    # How many times (scalars, `[..., 1]` each) the actor takes besides observation and chunk.
    num_times: ClassVar[int] = 0

    # ---- what a method defines ------------------------------------------------------------------

    @classmethod
    def make_actor(cls, config: Any, chunk_dim: int) -> nn.Module:
        """Returns the policy's network for chunks of size `chunk_dim`."""
        return MLP(tuple(config.actor_hidden_dims), chunk_dim, config.actor_layer_norm)

    def generate(self, actor_params: Any, observations: jax.Array, noise: jax.Array) -> jax.Array:
        """Turns standard normal `noise [..., N, D]` into chunks `[..., N, D]` in [-1, 1].

        They are the policy's proposals at `observations [..., d_s]`, one for each row of noise.
        """
        raise NotImplementedError

    def actor_loss(self, actor_params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the policy's loss, a scalar, and scalars to log.

        Its gradient trains `actor_params`; `self.params` are constants in it.
        """
        raise NotImplementedError

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raises UserError for a setting that cannot work; the error says what can."""
        for name in ('batch_size', 'num_qs', 'num_samples'):
            value = getattr(config, name)
            require(value >= 1, f'--agent.{name}={value}: must be at least 1')
        for name in ('target_num_samples', 'eval_num_samples'):
            num = getattr(config, name)
            require(num >= 0, f'--agent.{name}={num}: must be at least 1, or 0 for num_samples')
        for name in ('lr', 'tau'):
            value = getattr(config, name)
            require(0 < value <= 1, f'--agent.{name}={value}: must be in (0, 1]')
        for name in ('actor_hidden_dims', 'critic_hidden_dims'):
            sizes = tuple(getattr(config, name))
            require(
                bool(sizes) and all(isinstance(size, int) and size >= 1 for size in sizes),
                f'--agent.{name}={sizes}: needs at least one layer, each of size 1 or more',
            )
        require(config.rho >= 0, f'--agent.rho={config.rho}: must not be negative')
        for name, choices in (('q_agg', Q_AGGS), ('score_dtype', SCORE_DTYPES)):
            require_choice(name, getattr(config, name), choices)

    @staticmethod
    def check_horizon(horizon_length: int, discount: float) -> None:
        """Raises UserError for a chunk length or a discount that cannot work."""
        require(horizon_length >= 1, f'--horizon_length={horizon_length}: must be at least 1')
        require(0 <= discount <= 1, f'--discount={discount}: must be in [0, 1]')

    @classmethod
    def extra_state(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Returns the initial values of the fields that a method adds to the agent's state."""
        del params
        return {}

    def after_update(self) -> Self:
        """Returns the agent with the fields that a method adds brought up to date."""
        return self

    # ---- making an agent ------------------------------------------------------------------------

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
            seed: of the run; parameters and later draws have keys of their own (utils/keys.py).
            observation_dim: d_s.
            action_dim: d_a, the size of one action.
            config: the method's `get_config()`, possibly changed.
            horizon_length: h, the number of actions in a chunk.
            discount: γ per environment step.

        Raises:
            UserError: a setting cannot work.
        """
        cls.check_horizon(horizon_length, discount)
        cls.check_config(config)
        settings = freeze(config)
        chunk_dim = action_dim * (horizon_length if settings.action_chunking else 1)
        critic = Critic(
            tuple(settings.critic_hidden_dims), settings.num_qs, settings.critic_layer_norm
        )
        actor = cls.make_actor(settings, chunk_dim)
        learnt = cls._initial_state(
            critic, actor, settings.lr, observation_dim, chunk_dim, key_for(seed, 'parameters')
        )
        return cls(
            rng=key_for(seed, 'batches'),
            critic=critic,
            actor=actor,
            config=settings,
            observation_dim=observation_dim,
            action_dim=action_dim,
            horizon_length=horizon_length,
            discount=discount,
            **learnt,
        )

    @classmethod
    @partial(jax.jit, static_argnums=range(6))  # one program, not hundreds of small ones
    def _initial_state(
        cls,
        critic: nn.Module,
        actor: nn.Module,
        lr: float,
        observation_dim: int,
        chunk_dim: int,
        rng: jax.Array,
    ) -> dict[str, Any]:
        critic_rng, actor_rng = jax.random.split(rng)
        observations, chunks = jnp.zeros((1, observation_dim)), jnp.zeros((1, chunk_dim))
        times = [jnp.zeros((1, 1))] * cls.num_times
        params = {
            'critic': critic.init(critic_rng, observations, chunks),
            'actor': actor.init(actor_rng, observations, chunks, *times),
        }
        return {
            'params': params,
            'target_critic': params['critic'],
            'opt_state': optax.adam(lr).init(params),
            **cls.extra_state(params),
        }

    def begin_online(self) -> Self:
        """Returns the agent in its online phase."""
        return self.replace(online=True)

    # ---- chunks ---------------------------------------------------------------------------------

    @property
    def policy_horizon(self) -> int:
        """The number of actions that the policy decides on at once."""
        return self.horizon_length if self.config.action_chunking else 1

    @property
    def chunk_dim(self) -> int:
        """D, the size of a flattened chunk as the policy sees it."""
        return self.policy_horizon * self.action_dim

    def masked_chunks(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the batch's chunks, flattened and zero after the end of an episode.

        Returns:
            The chunks `[B, D]`, and `valid [B, h]`, 1 for each action before the end. Without
            action chunking both hold the first action only.
        """
        valid = batch['valid'][:, : self.policy_horizon]
        # Not a product: the batch may hold NaN after the end.
        actions = jnp.where(valid[..., None], batch['actions'][:, : self.policy_horizon], 0.0)
        return actions.reshape(len(actions), -1), valid

    def entry_mask(self, valid: jax.Array) -> jax.Array:
        """Returns `valid [B, h]` for each entry of a flattened chunk, `[B, D]`."""
        return jnp.repeat(valid, self.action_dim, axis=-1)

    # ---- acting ---------------------------------------------------------------------------------

    def propose(
        self, actor_params: Any, observations: jax.Array, num: int, rng: jax.Array
    ) -> jax.Array:
        """Draws `num` chunks `[..., num, D]` in [-1, 1] for `observations [..., d_s]`."""
        noise = jax.random.normal(rng, (*observations.shape[:-1], num, self.chunk_dim))
        return self.generate(actor_params, observations, noise)

    def aggregate(self, values: jax.Array) -> jax.Array:
        """Returns the mean, the minimum or the mean − ρ · std (`q_agg`) of `values [E, ...]`.

        They are over the ensemble. The variance is the mean squared deviation, so that of a single
        member is 0.
        """
        if self.config.q_agg == 'min':
            return values.min(axis=0)
        if self.config.q_agg == 'mean_std':
            # The floor keeps the infinite slope of sqrt(0) out of gradients.
            std = jnp.sqrt(jnp.maximum(values.var(axis=0), 1e-12))
            return values.mean(axis=0) - self.config.rho * std
        return values.mean(axis=0)

    def score(self, observations: jax.Array, chunks: jax.Array) -> jax.Array:
        """Returns values `[..., N]` to rank `chunks [..., N, D]` at `observations [..., d_s]`.

        The critic, not the target critic, computes them in `score_dtype`; they are float32.
        """
        inputs = self.params['critic'], observations[..., None, :], chunks
        inputs = jax.tree.map(lambda x: x.astype(self.config.score_dtype), inputs)
        return self.aggregate(apply_network(self.critic, *inputs).astype(jnp.float32))

    def best_of_n(self, observations: jax.Array, rng: jax.Array, num: int = 0) -> jax.Array:
        """Returns the best of `num` proposals, `[..., D]`, for `observations [..., d_s]`.

        A `num` of 0 stands for `num_samples`.
        """
        num = num or self.config.num_samples
        chunks = self.propose(self.params['actor'], observations, num, rng)
        if num == 1:
            return chunks[..., 0, :]
        return self.choose(observations, chunks)[0]

    def choose(self, observations: jax.Array, chunks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the best of `chunks [..., N, D]`, `[..., D]`, and its value `[...]`.

        The critic values them at `observations [..., d_s]`, see `score`.
        """
        values = self.score(observations, chunks)
        best = jnp.argmax(values, axis=-1)
        chosen = jnp.take_along_axis(chunks, best[..., None, None], axis=-2)[..., 0, :]
        return chosen, jnp.max(values, axis=-1)

    @jax.jit
    def sample_actions(self, observations: jax.Array, rng: jax.Array) -> jax.Array:
        """Returns chunks `[..., h, d_a]` to execute at `observations [..., d_s]`.

        Raises:
            ValueError: the observations' last axis is not d_s.
        """
        check_shape('observations', observations, '[..., d_s]', d_s=self.observation_dim)
        chunks = self.best_of_n(observations, rng)
        return chunks.reshape(*chunks.shape[:-1], self.policy_horizon, self.action_dim)

    def exploration_policy(self) -> Self:
        """Returns what plays in the online phase: the best of `num_samples` proposals.

        By default the critic's targets take the best of as many. So it learns the values of what is
        played. `target_num_samples` is another number for them.
        """
        arrays = {f.name for f in dataclasses.fields(self) if f.metadata.get('pytree_node', True)}
        return self.replace(**dict.fromkeys(arrays - {'params'}))

    def policy(self) -> Self:
        """Returns what acts once it has learnt: this agent with `sample_actions` and `params`.

        It has no other arrays, so it is smaller to copy and to hand over than the agent, and cannot
        learn. It takes the best of `eval_num_samples` proposals. Evaluation, videos and export use
        it.
        """
        num = self.config.eval_num_samples or self.config.num_samples
        return self.exploration_policy().replace(config=self.config._replace(num_samples=num))

    # ---- learning -------------------------------------------------------------------------------

    def td_targets(self, batch: Batch, rng: jax.Array) -> jax.Array:
        """Returns the critic's targets y `[B]`; the module's docstring has the equation."""
        observations = batch['next_observations']
        chunks = self.best_of_n(observations, rng, self.config.target_num_samples)
        values = apply_network(self.critic, self.target_critic, observations, chunks)
        bootstrap = self.discount**self.horizon_length * batch['masks']
        return batch['rewards'] + bootstrap * self.aggregate(values)

    def critic_loss(
        self, critic_params: Any, batch: Batch, targets: jax.Array
    ) -> tuple[jax.Array, Info]:
        """Returns the squared TD error for `targets [B]`, and scalars to log.

        It is the mean over the batch and the ensemble. A chunk that an episode's end cuts short
        counts as zero.
        """
        chunks, _ = self.masked_chunks(batch)
        values = apply_network(self.critic, critic_params, batch['observations'], chunks)
        is_full = batch['valid'][:, -1]
        loss = jnp.mean(is_full * jnp.square(values - targets))
        return loss, {
            'critic/loss': loss,
            'critic/q_mean': values.mean(),
            'critic/q_max': values.max(),
            'critic/q_min': values.min(),
        }

    @jax.jit
    def update(self, batch: Batch) -> tuple[Self, Info]:
        """Makes one gradient step on critic and actor, then one step of the target critic.

        Proposals and their scores use the parameters before the step. The target critic follows
        the critic after it.

        Args:
            batch: from `Replay.sample`, which says what is in it.

        Returns:
            The new agent and scalars to log.

        Raises:
            ValueError: an array of the batch is missing, or has another shape than
                `Replay.sample` gives.
        """
        self._check_batch(batch)
        rng, target_rng, actor_rng = jax.random.split(self.rng, 3)
        targets = self.td_targets(batch, target_rng)

        def total_loss(params):
            critic_loss, critic_info = self.critic_loss(params['critic'], batch, targets)
            actor_loss, actor_info = self.actor_loss(params['actor'], batch, actor_rng)
            return critic_loss + actor_loss, critic_info | actor_info

        grads, info = jax.grad(total_loss, has_aux=True)(self.params)
        updates, opt_state = optax.adam(self.config.lr).update(grads, self.opt_state)
        params = cast(dict[str, Any], optax.apply_updates(self.params, updates))
        target_critic = optax.incremental_update(
            params['critic'], self.target_critic, self.config.tau
        )
        agent = self.replace(
            rng=rng, params=params, target_critic=target_critic, opt_state=opt_state
        )
        return agent.after_update(), info

    def diagnose(self, batch: Batch, rng: jax.Array) -> Info:
        """Returns scalars that tell how the policy does, at the states of `batch`.

        `policy/q_data`, `q_samples` and `q_best` are the critic's mean values, as it ranks
        proposals, of the data's chunks (those that an episode's end cuts short are left out), of
        the policy's N samples, and of the best of them. `policy/diversity` is the standard
        deviation of the N samples at a state, as the root mean square over states and entries of a
        chunk. N is `num_samples`, and 2 for the diversity of a method that plays its only sample.
        """
        observations = batch['observations']
        num = self.config.num_samples
        samples = self.propose(self.params['actor'], observations, max(num, 2), rng)
        values = self.score(observations, samples)[:, :num]
        chunks, valid = self.masked_chunks(batch)
        is_full = valid[:, -1]
        of_data = is_full * self.score(observations, chunks[:, None])[:, 0]
        return {
            'policy/q_data': of_data.sum() / jnp.maximum(is_full.sum(), 1),
            'policy/q_samples': values.mean(),
            'policy/q_best': values.max(axis=1).mean(),
            'policy/diversity': jnp.sqrt(samples.var(axis=1, ddof=1).mean()),
        }

    def _check_batch(self, batch: Batch) -> None:
        """Raises ValueError unless the batch has all its arrays, each with its shape."""
        sizes = {'h': self.horizon_length, 'd_s': self.observation_dim, 'd_a': self.action_dim}
        check_shapes(batch, {'observations': '[B, d_s]'}, **sizes)
        axes = {
            'actions': '[B, h, d_a]',
            'rewards': '[B]',
            'masks': '[B]',
            'next_observations': '[B, d_s]',
            'valid': '[B, h]',
        }
        check_shapes(batch, axes, B=batch['observations'].shape[0], **sizes)


def freeze(config: ml_collections.ConfigDict) -> Any:
    """Returns the settings as a named tuple, which jit compares 100 times as fast."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return namedtuple('Config', values)(**values)


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises UserError unless a setting has one of its possible values."""
    require(value in choices, f'--agent.{name}={value}: use {" or ".join(choices)}')
