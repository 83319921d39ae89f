"""What every agent shares: Q-chunking (Li et al., 2025, arXiv 2507.07969).

A critic ensemble values whole chunks of actions. A policy proposes chunks, and the agent executes
the best of N proposals. The critic's targets use the same rule:

    y = R + γ^h · mask · agg_e Q_target,e(s', a*),   a* = argmax_a agg_e Q_e(s', a) over N proposals

agg is the mean, the minimum, or the mean − ρ · standard deviation over the ensemble. Targets and
ranking may use different ones. QAM (arXiv 2601.14234) forms targets by the last, with ten members
and ρ = 0.5. N may differ between targets, online play and evaluation.

A method is a subclass. It declares its networks, which of them have a slow copy, how noise becomes
chunks, and its policy's loss. The rest is shared: parameters and their training, slow copies, the
critic, best of N, checkpoints, and many seeds. Methods whose policy also learns from its best
proposals derive from `TopKAgent` (agents/top_k.py).

An agent is a pytree, and everything that changes it is a pure function. So `lax.scan` fuses many
updates into one dispatch, `vmap` trains many seeds at once, and a checkpoint is one tree.

Shapes: B states in a batch, chunks of h actions of size d_a. D = h · d_a is the size of a flattened
chunk (d_a without action chunking), E the size of the critic ensemble. `observations [...]` are a
tree (utils/spec.py) whose arrays begin with these axes.
"""

import dataclasses
import math
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Self, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax.core import FrozenDict

from utils.encoders import ENCODERS, crop, make_encoder
from utils.errors import UserError
from utils.keys import key_for
from utils.networks import MLP, Critic
from utils.replay import Batch, Replay, Rows
from utils.spec import Spec, check_tree, is_image

Info = dict[str, jax.Array]
Params = Mapping[str, Any]  # of networks, by name
Q_AGGS = ('mean', 'min', 'mean_std')
ENCODER = '_encoder'  # suffix of the network that embeds another network's observations


def static_field(**kwargs: Any) -> Any:
    """Returns a field that is compiled into the program: a new value means a new compilation."""
    return flax.struct.field(pytree_node=False, **kwargs)


def base_config() -> ml_collections.ConfigDict:
    """Returns the settings that all agents share, at the paper's values.

    The chunk length and the discount are settings of the run (`--horizon_length`, `--discount`),
    because replay and environments need them as well.
    """
    return ml_collections.ConfigDict(
        {
            'lr': 3e-4,  # Adam's learning rate
            'grad_clip': 0.0,  # largest global norm of the gradients; 0: no clipping
            'batch_size': 256,
            'tau': 0.005,  # rate of the target critic
            'num_qs': 2,  # E, size of the critic ensemble
            'q_agg': 'mean',  # how targets aggregate it: mean, min or mean_std (mean - rho * std)
            'rank_agg': '',  # how ranking aggregates it; empty: as q_agg
            'rho': 0.5,  # ρ of mean_std
            'num_samples': 16,  # N' in the paper: proposals per state; the best one is played
            'target_num_samples': 0,  # the same for the critic's targets; 0: num_samples
            'eval_num_samples': 0,  # the same for evaluation, videos and export; 0: num_samples
            'actor_hidden_dims': (512, 512, 512, 512),
            'critic_hidden_dims': (512, 512, 512, 512),
            'actor_layer_norm': False,
            'critic_layer_norm': True,
            'encoder': '',  # impala_small for images; each network has its own
            # False: policy and critic see single actions, and h is the n of n-step returns
            'action_chunking': True,
        }
    )


class Network(NamedTuple):
    """A network that a method declares.

    Attributes:
        module: called with an embedding `[..., d_z]` of the observation, then its `inputs`.
        inputs: sizes of the last axes of its other inputs.
        observes: whether it takes an observation.
    """

    module: nn.Module
    inputs: tuple[int, ...] = ()
    observes: bool = True


class Agent(flax.struct.PyTreeNode, kw_only=True):
    """State and settings of an agent; the module's docstring explains how it acts and learns.

    `params` holds exactly what the optimiser trains.
    """

    rng: jax.Array
    params: Params
    slow: Params  # slow copies of some of them
    opt_state: Any
    modules: Any = static_field()  # the networks' modules by name, a FrozenDict
    config: Any = static_field()  # a named tuple, see `freeze`
    spec: Spec = static_field()
    horizon_length: int = static_field()
    discount: float = static_field()
    p_aug: float = static_field(default=0.0)
    online: bool = static_field(default=False)

    # ---- what a method defines ------------------------------------------------------------------

    @classmethod
    def networks(cls, spec: Spec, config: Any) -> dict[str, Network]:
        """Returns the method's networks by name, without the `critic`, which the base adds."""
        raise NotImplementedError

    @classmethod
    def slow_copies(cls, config: Any, online: bool) -> dict[str, float]:
        """Returns the networks that have a slow copy in `slow`, and their rates in this phase.

        After each update, copy ← rate · network + (1 − rate) · copy. Rate 0 freezes the copy.
        """
        del online
        return {'critic': config.tau}

    @classmethod
    def optimizer(cls, config: Any) -> optax.GradientTransformation:
        """Returns the optimiser of all `params`."""
        adam = optax.adam(config.lr)
        if not config.grad_clip:
            return adam
        return optax.chain(optax.clip_by_global_norm(config.grad_clip), adam)

    def generate(self, params: Params, observations: Any, noise: jax.Array) -> jax.Array:
        """Turns standard normal `noise [..., N, Z]` into chunks `[..., N, D]` in [-1, 1].

        They are the policy's proposals at `observations [...]`, one per row of noise.
        """
        raise NotImplementedError

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The shape of one chunk's noise, with Z entries in all; by default the chunk's shape."""
        return self.spec.chunk

    @property
    def noise_dim(self) -> int:
        """Z, the size of one chunk's noise."""
        return math.prod(self.noise_shape)

    def actor_loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the policy's loss, a scalar, and scalars to log.

        Its gradient trains `params`. To hold a network constant in it, such as the critic, use
        `self.params`.
        """
        raise NotImplementedError

    def loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Info]:
        """Returns the total loss of critic and policy, and scalars to log."""
        critic_rng, actor_rng = jax.random.split(rng)
        targets = self.td_targets(batch, critic_rng)
        critic_loss, critic_info = self.critic_loss(params, batch, targets)
        actor_loss, actor_info = self.actor_loss(params, batch, actor_rng)
        return critic_loss + actor_loss, critic_info | actor_info

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raises UserError for an invalid setting; the error says which values are valid."""
        sizes = 'actor_hidden_dims', 'critic_hidden_dims'
        require_range(config, 'batch_size', 'num_qs', 'num_samples', *sizes, least=1)
        nums = 'target_num_samples', 'eval_num_samples'
        require_range(config, 'rho', 'grad_clip', *nums, least=0)
        require_range(config, 'lr', 'tau', above=0, most=1)
        require_choice(config, Q_AGGS, 'q_agg')
        require_choice(config, ('', *Q_AGGS), 'rank_agg')
        require_choice(config, ENCODERS, 'encoder')

    @staticmethod
    def check_horizon(horizon_length: int, discount: float) -> None:
        """Raises UserError for an invalid chunk length or discount."""
        require(horizon_length >= 1, f'--horizon_length={horizon_length}: must be at least 1')
        require(0 <= discount <= 1, f'--discount={discount}: must be in [0, 1]')

    # ---- making an agent ------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        seed: int,
        spec: Spec,
        config: ml_collections.ConfigDict,
        horizon_length: int,
        discount: float = 0.99,
        frame_stack: int = 1,
        p_aug: float = 0.0,
    ) -> Self:
        """Makes an agent in its offline phase.

        Args:
            seed: of the run; parameters and later draws have keys of their own (utils/keys.py).
            spec: of the data's transitions.
            config: the method's `get_config()`, possibly changed.
            horizon_length: h, the number of actions in a chunk.
            discount: γ per environment step.
            frame_stack: number of frames stacked in an image.
            p_aug: probability of random crops of a batch's images.

        Raises:
            UserError: a setting is invalid.
        """
        cls.check_horizon(horizon_length, discount)
        cls.check_config(config)
        settings = freeze(config)
        horizon = horizon_length if settings.action_chunking else 1
        spec = dataclasses.replace(spec, horizon=horizon, frame_stack=frame_stack)
        images = [x for x in jax.tree.leaves(spec.observation) if is_image(x)]
        require(
            not images or settings.encoder,
            '--agent.encoder=: observations have images; use --agent.encoder=impala_small',
        )
        critic = Critic(
            tuple(settings.critic_hidden_dims), settings.num_qs, settings.critic_layer_norm
        )
        networks = {'critic': Network(critic, (spec.chunk_dim,))} | cls.networks(spec, settings)
        if encoder := make_encoder(spec.observation):
            observing = [name for name, network in networks.items() if network.observes]
            networks |= {f'{name}{ENCODER}': Network(encoder) for name in observing}
        state = cls._initial_state(
            settings, spec, tuple(networks.items()), key_for(seed, 'parameters')
        )
        return cls(
            rng=key_for(seed, 'batches'),
            modules=FrozenDict({name: network.module for name, network in networks.items()}),
            config=settings,
            spec=spec,
            horizon_length=horizon_length,
            discount=discount,
            p_aug=p_aug if images else 0.0,
            **state,
        )

    @classmethod
    @partial(jax.jit, static_argnums=range(4))  # one program, not hundreds of small ones
    def _initial_state(
        cls, config: Any, spec: Spec, networks: tuple[tuple[str, Network], ...], rng: jax.Array
    ) -> dict[str, Any]:
        observation = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), spec.observation)
        encoder, params = make_encoder(spec.observation), {}
        z = observation
        if encoder:
            z = encoder.init_with_output(rng, observation)[0]
        for (name, network), key in zip(
            networks, jax.random.split(rng, len(networks)), strict=True
        ):
            if name.endswith(ENCODER):
                inputs = [observation]
            else:
                inputs = [z] * network.observes + [jnp.zeros((1, d)) for d in network.inputs]
            params[name] = network.module.init(key, *inputs)
        slow = {
            part: params[part]
            for name in cls.slow_copies(config, online=False)
            for part in with_encoder(name, params)
        }
        return {
            'params': params,
            'slow': slow,
            'opt_state': cls.optimizer(config).init(params),
        }

    def begin_online(self) -> Self:
        """Returns the agent in its online phase."""
        return self.replace(online=True)

    def renew_slow(self, name: str) -> Self:
        """Returns the agent with a network's slow copy reset to the network."""
        network = {part: self.params[part] for part in with_encoder(name, self.params)}
        return self.replace(slow=self.slow | jax.tree.map(jnp.copy, network))

    def network(self, name: str, params: Params, observations: Any) -> Callable[..., jax.Array]:
        """Returns a network at some observations: a function of its other inputs.

        The observations `[...]` are embedded here, once. If the first input is `[..., N, size]`
        rather than `[..., size]`, the embedding `[..., d_z]` is broadcast over the N samples.

        Args:
            name: of the network.
            params: of the networks; pass `self.slow` for the slow copy.
            observations: `[...]`.
        """
        encoder = self.modules.get(f'{name}{ENCODER}')
        z = encoder.apply(params[f'{name}{ENCODER}'], observations) if encoder else observations

        def apply(*inputs: jax.Array) -> jax.Array:
            at = z[..., None, :] if inputs and inputs[0].ndim > z.ndim else z
            return self.modules[name].apply(params[name], at, *inputs)

        return apply

    # ---- chunks ---------------------------------------------------------------------------------

    def masked_chunks(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the batch's chunks, flattened and zero after the end of an episode.

        Returns:
            The chunks `[B, D]`, and `valid [B, h]`, 1 for each action before the end. Without
            action chunking both hold the first action only.
        """
        valid = batch['valid'][:, : self.spec.horizon]
        # Not a product, because the batch may contain NaN after the end.
        actions = jnp.where(valid[..., None], batch['actions'][:, : self.spec.horizon], 0.0)
        return actions.reshape(len(actions), -1), valid

    def entry_mask(self, valid: jax.Array) -> jax.Array:
        """Returns `valid [B, h]` for each entry of a flattened chunk, `[B, D]`."""
        return jnp.repeat(valid, self.spec.chunk[1], axis=-1)

    # ---- acting ---------------------------------------------------------------------------------

    def draw_noise(
        self, observations: Any, num: int, rng: jax.Array, size: int | None = None
    ) -> jax.Array:
        """Draws the noise `[..., num, size]` of `num` chunks for `observations [...]`.

        By default the size is Z.
        """
        array, shape = (jax.tree.leaves(x)[0] for x in (observations, self.spec.observation))
        leading = array.shape[: array.ndim - len(shape.shape)]
        return jax.random.normal(rng, (*leading, num, size or self.noise_dim))

    def propose(self, params: Params, observations: Any, num: int, rng: jax.Array) -> jax.Array:
        """Draws `num` chunks `[..., num, D]` in [-1, 1] for `observations [...]`."""
        return self.generate(params, observations, self.draw_noise(observations, num, rng))

    def aggregate(self, values: jax.Array, agg: str = '') -> jax.Array:
        """Returns the mean, the minimum or the mean − ρ · std of `values [E, ...]`.

        The variance over the ensemble is the mean squared deviation, so it is 0 for a single
        member. By default `agg` is `q_agg`.
        """
        agg = agg or self.config.q_agg
        if agg == 'min':
            return values.min(axis=0)
        if agg == 'mean_std':
            # The floor avoids the infinite slope of sqrt(0) in gradients.
            std = jnp.sqrt(jnp.maximum(values.var(axis=0), 1e-12))
            return values.mean(axis=0) - self.config.rho * std
        return values.mean(axis=0)

    def score(self, observations: Any, chunks: jax.Array) -> jax.Array:
        """Returns values `[..., N]` to rank `chunks [..., N, D]` at `observations [...]`.

        They come from the critic, not the target critic.
        """
        values = self.network('critic', self.params, observations)(chunks)
        return self.aggregate(values, self.config.rank_agg)

    def best_of_n(self, observations: Any, rng: jax.Array, num: int = 0) -> jax.Array:
        """Returns the best of `num` proposals, `[..., D]`, for `observations [...]`.

        If `num` is 0, it is `num_samples`.
        """
        noise = self.draw_noise(observations, num or self.config.num_samples, rng)
        if noise.shape[-2] == 1:
            return self.generate(self.params, observations, noise)[..., 0, :]
        return self.best_of(observations, noise)[0]

    def best_of(self, observations: Any, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the best chunk from `noise [..., N, Z]`, `[..., D]`, and its value `[...]`.

        See `choose`.
        """
        return self.choose(observations, self.generate(self.params, observations, noise))

    def choose(self, observations: Any, chunks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the best of `chunks [..., N, D]`, `[..., D]`, and its value `[...]`.

        The critic scores them at `observations [...]`, see `score`.
        """
        values = self.score(observations, chunks)
        best = jnp.argmax(values, axis=-1)
        chosen = jnp.take_along_axis(chunks, best[..., None, None], axis=-2)[..., 0, :]
        return chosen, jnp.max(values, axis=-1)

    @jax.jit
    def sample_actions(self, observations: Any, rng: jax.Array) -> jax.Array:
        """Returns chunks `[..., h, d_a]` to execute at `observations [...]`.

        Raises:
            ValueError: the observations do not have the shapes of the data.
        """
        shapes = jax.tree.map(lambda x: (..., *x.shape), self.spec.observation)
        check_tree(observations, shapes, 'observations')
        chunks = self.best_of_n(observations, rng)
        return chunks.reshape(*chunks.shape[:-1], *self.spec.chunk)

    def exploration_policy(self) -> Self:
        """Returns the behaviour policy of the online phase: the best of `num_samples` proposals.

        By default the critic's targets use the same number, so the critic learns this policy's
        values.
        """
        arrays = {f.name for f in dataclasses.fields(self) if f.metadata.get('pytree_node', True)}
        return self.replace(**dict.fromkeys(arrays - {'params'}))

    def policy(self) -> Self:
        """Returns the evaluation policy: parameters only, no optimiser state or slow copies.

        Its `sample_actions` takes the best of `eval_num_samples` proposals. Evaluation, videos and
        export use it.
        """
        num = self.config.eval_num_samples or self.config.num_samples
        return self.exploration_policy().replace(config=self.config._replace(num_samples=num))

    # ---- learning -------------------------------------------------------------------------------

    def td_targets(self, batch: Batch, rng: jax.Array) -> jax.Array:
        """Returns the critic's targets y `[B]`; the module's docstring has the equation."""
        observations = batch['next_observations']
        chunks = self.best_of_n(observations, rng, self.config.target_num_samples)
        values = self.network('critic', self.slow, observations)(chunks)
        bootstrap = self.discount**self.horizon_length * batch['masks']
        return batch['rewards'] + bootstrap * self.aggregate(values)

    def critic_loss(
        self, params: Params, batch: Batch, targets: jax.Array
    ) -> tuple[jax.Array, Info]:
        """Returns the squared TD error for `targets [B]`, and scalars to log.

        It is the mean over the batch and the ensemble. A chunk that is cut short by the end of an
        episode counts as zero.
        """
        chunks, _ = self.masked_chunks(batch)
        values = self.network('critic', params, batch['observations'])(chunks)
        is_full = batch['valid'][:, -1]
        loss = jnp.mean(is_full * jnp.square(values - targets))
        return loss, {
            'critic/loss': loss,
            'critic/q_mean': values.mean(),
            'critic/q_max': values.max(),
            'critic/q_min': values.min(),
        }

    def sample_batch(self, replay: Replay, data: Rows, rng: jax.Array) -> Batch:
        """Draws a batch for `update` from the data set and `replay`."""
        batch = replay.sample(
            data,
            rng,
            self.config.batch_size,
            self.horizon_length,
            self.discount,
            self.spec.frame_stack,
        )
        if not self.p_aug:
            return batch
        return crop(batch, jax.random.fold_in(rng, 1), self.p_aug)

    @jax.jit
    def update(self, batch: Batch) -> tuple[Self, Info]:
        """Takes one gradient step on all networks, then moves the slow copies.

        Proposals and their scores use the parameters before the step, slow copies those after it.

        Args:
            batch: from `Replay.sample`.

        Returns:
            The new agent and scalars to log.

        Raises:
            ValueError: an array of the batch is missing or has a wrong shape.
        """
        self._check_batch(batch)
        rng, loss_rng = jax.random.split(self.rng)
        grads, info = jax.grad(self.loss, has_aux=True)(self.params, batch, loss_rng)
        updates, opt_state = self.optimizer(self.config).update(grads, self.opt_state)
        params = cast(Params, optax.apply_updates(self.params, updates))
        slow = dict(self.slow)
        for name, rate in self.slow_copies(self.config, self.online).items():
            for part in with_encoder(name, params) if rate else ():
                slow[part] = optax.incremental_update(params[part], slow[part], rate)
        return self.replace(rng=rng, params=params, slow=slow, opt_state=opt_state), info

    def diagnose(self, batch: Batch, rng: jax.Array) -> Info:
        """Returns metrics of the policy at the states of `batch`.

        `policy/q_data`, `policy/q_samples` and `policy/q_best` are mean values (see `score`) of the
        data's full chunks, of the policy's N samples, and of the best of them. `policy/diversity`
        is the standard deviation of the N samples at a state, as a root mean square over states
        and entries. N is `num_samples`, but at least 2 for the diversity.
        """
        observations = batch['observations']
        num = self.config.num_samples
        samples = self.propose(self.params, observations, max(num, 2), rng)
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
        """Raises ValueError unless the batch has all arrays, in the right shapes."""
        horizon = self.horizon_length
        check_tree(batch, {'valid': (..., horizon)})
        size = len(batch['valid'])
        observation = jax.tree.map(lambda x: (size, *x.shape), self.spec.observation)
        expected = {name: self.spec.shapes(name, size, horizon) for name in self.spec.transition}
        expected |= {'observations': observation, 'next_observations': observation}
        expected |= {'rewards': (size,), 'masks': (size,), 'valid': (size, horizon)}
        check_tree(batch, expected)


def with_encoder(name: str, params: Params) -> list[str]:
    """Returns the names of a network and of its encoder, if it has one."""
    return [part for part in (name, f'{name}{ENCODER}') if part in params]


def actor_mlp(spec: Spec, config: Any, *inputs: int) -> Network:
    """Returns a policy's usual network: an MLP `(observation, *inputs) -> [..., D]`."""
    dims = tuple(config.actor_hidden_dims)
    return Network(MLP(dims, spec.chunk_dim, config.actor_layer_norm), inputs)


def freeze(config: ml_collections.ConfigDict) -> Any:
    """Returns the settings as a named tuple, which jit compares 100 times faster."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return _config_class(tuple(values))(**values)


@cache
def _config_class(names: tuple[str, ...]) -> Any:
    """Returns one class per set of names: jit compiles anew for an argument of another class."""
    return namedtuple('Config', names)


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_range(
    config: Any, *names: str, least: float = -math.inf, above: float = -math.inf, most=math.inf
) -> None:
    """Raises UserError unless settings are in a range; of a tuple, every entry must be."""
    limits = {'at least': least, 'above': above, 'at most': most}
    wanted = ' and '.join(f'{word} {x:g}' for word, x in limits.items() if math.isfinite(x))
    for name in names:
        value = getattr(config, name)
        many = isinstance(value, tuple | list)
        values = tuple(value) if many else (value,)
        fits = all(isinstance(x, int | float) and least <= x <= most and x > above for x in values)
        needs = 'needs one or more numbers, each' if many else 'must be'
        require(fits and bool(values), f'--agent.{name}={value}: {needs} {wanted}')


def require_choice(config: Any, choices: Sequence[str], *names: str) -> None:
    """Raises UserError unless settings have one of the given values."""
    for name in names:
        value = getattr(config, name)
        require(value in choices, f'--agent.{name}={value}: use {" or ".join(choices)}')
