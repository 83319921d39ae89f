"""Small agents and batches for the tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import agents
from agents.base import Agent
from utils.spec import Spec

OBSERVATION_DIM, ACTION_DIM, HORIZON = 3, 2, 4
CHUNK_DIM = HORIZON * ACTION_DIM
METHODS = agents.names()
LEARNS_FROM_CANDIDATES = ['dfp', 'mvp']


def make(
    method,
    seed=0,
    horizon=HORIZON,
    observation_dim=OBSERVATION_DIM,
    action_dim=ACTION_DIM,
    **changes,
) -> Agent:
    """Makes an agent with small networks; each layer takes a while to compile."""
    config = agents.get_config(method)
    config.update(actor_hidden_dims=(16,), critic_hidden_dims=(16,), batch_size=16, num_qs=2)
    if 'flow_steps' in config:
        config.flow_steps = 2
    config.update(changes)
    spec = make_spec(observation_dim, action_dim)
    return agents.find_class(method).create(seed, spec, config, horizon, 0.9)


def make_spec(observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, horizon=1):
    """The spec of transitions with vectors as observations."""
    rows = {
        'observations': np.zeros((1, observation_dim)),
        'actions': np.zeros((1, action_dim)),
        'rewards': np.zeros(1),
        'masks': np.zeros(1),
    }
    return dataclasses.replace(Spec.of(rows), horizon=horizon)


def describe(settings, horizon_length=1, discount=0.99, **dims):
    """A description for `make_agent`."""
    return {
        'agent': settings,
        'transition': make_spec(**dims).to_json(),
        'horizon_length': horizon_length,
        'discount': discount,
        'frame_stack': 1,
        'p_aug': 0.0,
    }


def with_critic(agent, critic):
    """The agent with another critic, or another object with `apply`."""
    return agent.replace(modules=agent.modules.copy({'critic': critic}))


def make_batch(seed=0, size=16, horizon=HORIZON):
    """Makes a batch of whole chunks."""
    rng = np.random.default_rng(seed)
    batch = {
        'observations': rng.normal(size=(size, OBSERVATION_DIM)),
        'actions': rng.uniform(-1, 1, (size, horizon, ACTION_DIM)),
        'rewards': rng.normal(size=size),
        'masks': (rng.uniform(size=size) < 0.8).astype(float),
        'next_observations': rng.normal(size=(size, OBSERVATION_DIM)),
        'valid': np.ones((size, horizon)),
    }
    return {k: jnp.asarray(v, jnp.float32) for k, v in batch.items()}


def cut(batch, states, length):
    """Cuts the chunks of some states after `length` steps."""
    return batch | {'valid': batch['valid'].at[jnp.asarray(states), length:].set(0)}


def one_step(observations, actions):
    """Makes a batch of episodes of one action each, with rewards of 0."""
    size = len(observations)
    return {
        'observations': observations,
        'actions': actions[:, None],
        'rewards': jnp.zeros(size),
        'masks': jnp.zeros(size),
        'next_observations': observations,
        'valid': jnp.ones((size, 1)),
    }


def compiled(agent, method, *arguments):
    """Calls a method of an agent as one program; called directly it is a hundred small ones."""
    sizes = [1 + i for i, argument in enumerate(arguments) if isinstance(argument, int)]
    return jax.jit(getattr(type(agent), method), static_argnums=sizes)(agent, *arguments)


def train_on(agent, sample, num_updates, average=1):
    """Updates an agent on batches `sample(rng)`, in one dispatch.

    Its parameters become the mean of those after each of the last `average` updates: the noise of
    single updates moves a mean less.
    """

    @jax.jit
    def run(agent):
        def body(carry, inputs):
            agent, mean = carry
            index, rng = inputs
            agent = agent.update(sample(rng))[0]
            weight = jnp.where(index < num_updates - average, 0.0, 1 / average)
            return (agent, jax.tree.map(lambda m, x: m + weight * x, mean, agent.params)), None

        rngs = jax.random.split(jax.random.PRNGKey(0), num_updates)
        carry = agent, jax.tree.map(jnp.zeros_like, agent.params)
        (agent, mean), _ = jax.lax.scan(body, carry, (jnp.arange(num_updates), rngs))
        return agent.replace(params=mean)

    return run(agent)


@dataclasses.dataclass(frozen=True)
class FixedCritic:
    """A critic that values a chunk by its distance to the best one, everywhere."""

    best: float = 0.5
    scale: float = 1.0

    def apply(self, params, observations, chunks):
        """Returns −scale · ‖chunk − best‖² `[2, ...]`."""
        del params, observations
        value = -self.scale * jnp.sum(jnp.square(chunks - self.best), axis=-1)
        return jnp.stack([value, value])


class Asked:
    """A critic that values all chunks at 1, and notes the shapes of those it is asked about."""

    def __init__(self):
        self.shapes = []

    def apply(self, params, observations, chunks):
        self.shapes.append(chunks.shape)
        return jnp.ones((2, *chunks.shape[:-1]))


def equal(a, b):
    """Tells whether two trees are equal, bit for bit."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))
