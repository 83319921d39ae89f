"""Measures the speed-up of scoring in bfloat16, and how often it chooses the same action.

    python -m benchmarks.precision --checkpoints='exp/*/*/*'

Uses all seeds of the runs or checkpoints that match the pattern, on observations of their training
data.
"""

import glob
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from agents.base import SCORE_DTYPES, Agent
from benchmarks.common import new_agent, print_table, run, save, seconds
from envs import make_dataset
from training import RunConfig, load_agents

FLAGS = flags.FLAGS


def trained_agents(path: str) -> list[dict[str, Any]]:
    """Returns a row per seed of a run or checkpoint."""
    agents, metadata = load_agents(path)
    config = RunConfig.from_json(metadata['config'])
    states = make_dataset(config.task, **config.env_options).load(0)['observations']
    picked = np.random.default_rng(0).choice(len(states), FLAGS.states)
    rows = []
    for agent, seed in zip(agents, metadata['seeds'], strict=True):
        row = {'agent': config.agent['agent_name'], 'run': config.directory.name}
        if len(metadata['seeds']) > 1:
            row['run'] += f', seed {seed}'
        rows.append(row | agreement(agent, jnp.asarray(states[picked])))
    return rows


def agreement(agent: Agent, observations: jax.Array) -> dict[str, Any]:
    """Returns how often a trained agent chooses the same action, and the loss of value if not."""
    rng, num = jax.random.PRNGKey(0), agent.config.num_samples
    chunks = agent.propose(agent.params, observations, num, rng)
    scores = {
        dtype: agent.replace(config=agent.config._replace(score_dtype=dtype)).score(
            observations, chunks
        )
        for dtype in SCORE_DTYPES
    }
    exact = scores['float32']
    choice, rough = exact.argmax(-1), scores['bfloat16'].argmax(-1)
    lost = exact.max(-1) - jnp.take_along_axis(exact, rough[:, None], -1)[:, 0]
    spread = exact.max(-1) - exact.mean(-1)
    return {
        'N': num,
        'equal choice, %': float(100 * (choice == rough).mean()),
        'value lost, % of best - mean': float(100 * lost.mean() / spread.mean()),
    }


def gain() -> list[dict[str, Any]]:
    """Times the scoring of 256 × 16 proposals at paper size in both precisions."""
    rows = []
    for dtype in SCORE_DTYPES:
        agent = new_agent('DFP', score_dtype=dtype)
        observations = jnp.ones((256, *agent.spec.observation.shape))
        chunks = jnp.ones((256, 16, agent.spec.chunk_dim))
        score = jax.jit(type(agent).score)
        jax.block_until_ready(score(agent, observations, chunks))
        took = [seconds(lambda: score(agent, observations, chunks)) for _ in range(20)]  # noqa: B023
        rows.append({'score_dtype': dtype, 'ms': float(1e3 * np.median(took))})
    return rows


def main(_) -> None:
    rows = [row for path in sorted(glob.glob(FLAGS.checkpoints)) for row in trained_agents(path)]
    rows = rows or [{'agent': f'none: there is no {FLAGS.checkpoints}, `make demo` trains one'}]
    print_table(rows)
    speed = gain()
    print_table(speed)
    save(FLAGS.json, {'agreement': rows, 'scoring': speed})


if __name__ == '__main__':
    flags.DEFINE_string('checkpoints', 'exp/quickstart/*/*', 'Pattern of runs or checkpoints.')
    flags.DEFINE_integer('states', 5_000, 'States at which actions are chosen.')
    run(main)
