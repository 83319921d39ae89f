"""Each policy on a one-state problem: where its actions go offline and online.

    python -m figures.bandit --output=docs/bandit.png

Actions have two dimensions. The data has four modes; a fixed critic values all modes a little and a
narrow spot in the rarest one highly. Each method trains offline on the data, then online on the
data and its own actions, with the usual agents and replay at a smaller size; DFP with each of its
fields. The figure shows the policy's samples and the executed actions (the best of N samples; FQL:
the samples).
"""

import dataclasses
import pathlib
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import app, flags, logging

import agents
from agents.base import Agent
from training.clips import check_path
from utils.errors import UserError
from utils.keys import key_for
from utils.replay import Batch, Replay, Rows
from utils.spec import Spec

matplotlib.use('Agg')
import matplotlib.pyplot as plt

POLICIES = {  # label -> agent and changed settings
    'BFN': ('bfn', {}),
    'FQL': ('fql', {'alpha': 1.0}),  # scaled to the values here, as 300 is to a cube task's
    # As released with DFP; without a top-K term it only imitates, like BFN.
    'MVP': ('mvp', {'top_k': 4, 'topk_phases': 'both'}),
    'DFP, normalised': ('dfp', {}),
    'DFP, mean shift': ('dfp', {'data_field': 'mean_shift', 'topk_field': 'mean_shift'}),
}
MODES = np.array([[-0.55, -0.55], [-0.55, 0.55], [0.55, -0.55], [0.55, 0.55]])
WEIGHTS = np.array([0.3, 0.3, 0.3, 0.1])
WIDTH = 0.08  # standard deviation of each mode
BEST, BEST_WIDTH = np.array([0.6, 0.6]), 0.06  # the critic's optimum
SUPPORT = 4 * WIDTH  # actions farther than this from every mode are off the support
DATA_SIZE, OFFLINE_STEPS, ONLINE_STEPS, NUM_DRAWN = 5_000, 4_000, 4_000, 1_000
Drawn = dict[str, tuple[np.ndarray, np.ndarray]]  # phase -> samples and actions [n, 2]


@dataclasses.dataclass(frozen=True)
class FixedCritic:
    """Known values in place of a learnt critic."""

    def apply(self, params: Any, observations: Any, chunks: jax.Array) -> jax.Array:
        """Returns Q `[1, ...]` of `chunks [..., 2]`: 0.3 on any mode, 1 more at the best spot."""
        del params, observations
        near = jnp.min(jnp.sum(jnp.square(chunks[..., None, :] - MODES), -1), -1)
        peak = jnp.sum(jnp.square(chunks - BEST), -1)
        values = 0.3 * jnp.exp(-near / (2 * (2 * WIDTH) ** 2))
        return (values + jnp.exp(-peak / (2 * BEST_WIDTH**2)))[None]


def behaviour(num: int, seed: int) -> np.ndarray:
    """Draws actions `[num, 2]` of the data."""
    rng = np.random.default_rng(seed)
    modes = MODES[rng.choice(len(MODES), num, p=WEIGHTS)]
    return np.clip(modes + WIDTH * rng.standard_normal((num, 2)), -1, 1).astype(np.float32)


def as_rows(actions: np.ndarray) -> Rows:
    """Returns episodes of one action each."""
    zeros = np.zeros(2 * len(actions), np.float32)
    rows = {'observations': zeros[:, None], 'rewards': zeros, 'masks': zeros}
    rows |= {'actions': np.repeat(actions, 2, axis=0), 'terminals': np.arange(len(zeros)) % 2 == 1}
    return Rows.from_dataset(rows)


def transition(chunk: jax.Array) -> Batch:
    """Returns an episode of one action, `chunk [1, 2]`, for `Replay.add`."""
    zero = jnp.zeros(1)
    each = {'observations': zero[None], 'actions': chunk, 'rewards': zero, 'masks': zero}
    return each | {'length': jnp.int32(1), 'next_observation': zero, 'done': jnp.asarray(True)}


def make_agent(policy: str, seed: int) -> Agent:
    """Makes an agent with the method's own settings, small networks, and the fixed critic."""
    method, changes = POLICIES[policy]
    config = agents.get_config(method)
    config.update(
        batch_size=128, actor_hidden_dims=(128, 128), critic_hidden_dims=(8,), lr=1e-3, num_qs=1
    )
    config.update(changes)
    if 'ema_rate' in config:
        config.ema_rate = 1e-3  # training has a thousandth of the paper's steps
    spec = Spec.of(as_rows(behaviour(1, seed)).fields)
    agent = agents.find_class(method).create(seed, spec, config, horizon_length=1)
    return agent.replace(modules=agent.modules.copy({'critic': FixedCritic()}))


def learn(agent: Agent, replay: Replay, data: Rows) -> Agent:
    """Makes an update on a fresh batch."""
    rng, sample_rng = jax.random.split(agent.rng)
    return agent.replace(rng=rng).update(agent.sample_batch(replay, data, sample_rng))[0]


@partial(jax.jit, static_argnames='steps')
def train_offline(agent: Agent, replay: Replay, data: Rows, steps: int) -> Agent:
    """Makes `steps` updates on the data."""
    return jax.lax.fori_loop(0, steps, lambda _, agent: learn(agent, replay, data), agent)


@partial(jax.jit, static_argnames='steps')
def train_online(agent: Agent, replay: Replay, data: Rows, rng: jax.Array, steps: int) -> Agent:
    """Takes `steps` actions, each followed by an update."""

    def step(i, carry):
        agent, replay = carry
        policy = agent.exploration_policy()
        chunk = policy.sample_actions(jnp.zeros(1), jax.random.fold_in(rng, i))
        replay = replay.add(data, transition(chunk))
        return learn(agent, replay, data), replay

    return jax.lax.fori_loop(0, steps, step, (agent, replay))[0]


@jax.jit
def draw(policy: Agent, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns samples of the policy and executed actions, `[n, 2]` each."""
    sample_rng, act_rng = jax.random.split(rng)
    observations = jnp.zeros((NUM_DRAWN, 1))
    sampler = policy.replace(config=policy.config._replace(num_samples=1))
    samples = sampler.sample_actions(observations, sample_rng)
    return samples[:, 0], policy.sample_actions(observations, act_rng)[:, 0]


def play(policy: str, seed: int, offline_steps: int, online_steps: int) -> Drawn:
    """Trains a policy; returns the output of `draw` at the end of each phase."""
    data = as_rows(behaviour(DATA_SIZE, seed))
    agent, replay = make_agent(policy, seed), Replay.create(data, DATA_SIZE + online_steps)
    drawing = key_for(seed, 'evaluation')
    agent = train_offline(agent, replay, data, offline_steps)
    drawn = {'offline': jax.device_get(draw(agent.policy(), drawing))}
    agent, replay = agent.begin_online(), replay.begin_online(data, online_steps)
    agent = train_online(agent, replay, data, key_for(seed, 'exploration'), online_steps)
    return drawn | {'online': jax.device_get(draw(agent.policy(), drawing))}


def summary(actions: np.ndarray) -> dict[str, float]:
    """Returns the fractions of `actions [n, 2]` in each mode and off the support, spread, mean Q.

    The spread is the standard deviation within a mode, relative to the data's.
    """
    distances = np.linalg.norm(actions[:, None] - MODES, axis=-1)
    values = FixedCritic().apply(None, None, jnp.asarray(actions))[0]
    mode = np.where(distances.min(axis=1) <= SUPPORT, distances.argmin(axis=1), len(MODES))
    shares = np.bincount(mode, minlength=len(MODES) + 1) / len(actions)
    kept = [actions[mode == i].std(axis=0).mean() for i in range(len(MODES)) if shares[i] >= 0.02]
    return {
        'best mode': shares[3],
        'modes kept': len(kept),
        'spread': float(np.mean(kept)) / WIDTH if kept else 0.0,
        'off support': shares[4],
        'mean Q': float(np.mean(values)),
    }


def picture(results: dict[str, Drawn], path: pathlib.Path) -> None:
    """Draws one row per phase and one column per method."""
    figure, axes = plt.subplots(
        2, len(results), figsize=(3.1 * len(results), 6.9), layout='constrained', squeeze=False
    )
    grid = np.linspace(-1, 1, 200)
    points = jnp.stack(jnp.meshgrid(grid, grid), -1)
    values = FixedCritic().apply(None, None, points)[0]
    for column, (policy, drawn) in enumerate(results.items()):
        for row, (phase, (samples, actions)) in enumerate(drawn.items()):
            ax = axes[row, column]
            ax.contourf(grid, grid, values, levels=12, cmap='Greys', alpha=0.55)
            ax.scatter(*samples.T, s=3, color='tab:blue', alpha=0.5, linewidths=0, label='samples')
            ax.scatter(*actions.T, s=3, color='tab:red', alpha=0.5, linewidths=0, label='taken')
            for mode in MODES:
                ax.add_patch(plt.Circle(mode, SUPPORT, fill=False, color='0.4', lw=0.6, ls=':'))
            of_samples, of_actions = summary(samples), summary(actions)
            ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect='equal')
            ax.set_title(f'{policy}, {phase}', fontsize=10)
            ax.set_xlabel(
                '\n'.join(
                    f'{name}: {100 * of_samples[name]:.0f}% of samples, '
                    f'{100 * of_actions[name]:.0f}% of actions'
                    for name in ('best mode', 'off support')
                )
                + f'\nmean Q: {of_samples["mean Q"]:.2f}, {of_actions["mean Q"]:.2f}',
                fontsize=8,
            )
    axes[0, 0].legend(loc='lower left', fontsize=7, markerscale=4, framealpha=0.9)
    try:
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)  # jax logs which backends it lacks
    output, seed = flags.FLAGS.output, flags.FLAGS.seed
    try:
        check_path(output, 'output', ('.png', '.pdf', '.svg'))
    except UserError as error:
        sys.exit(str(error))
    results = {}
    for policy in POLICIES:
        results[policy] = play(policy, seed, OFFLINE_STEPS, ONLINE_STEPS)
        for phase, (samples, actions) in results[policy].items():
            for kind, drawn in (('samples', samples), ('actions', actions)):
                numbers = ', '.join(f'{k} {v:.3g}' for k, v in summary(drawn).items())
                print(f'{policy}, {phase}, {kind}: {numbers}', flush=True)
    picture(results, pathlib.Path(output))


if __name__ == '__main__':
    flags.DEFINE_integer('seed', 0, 'Seed of data, parameters and draws.', 0, 2**32 - 1)
    flags.DEFINE_string('output', 'bandit.png', 'Picture to write.')
    app.run(main)
