"""Measures the online loop against its two parts, simulation and updates, each alone.

    python -m benchmarks.online

The loop is main.py's own. Time per environment step, all seeds together; `of the longer` is the
loop's over the longer of the two parts. Small networks make the simulator the longer part, those
of the paper the updates.
"""

import time

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import main as program
from agents import make_agent
from benchmarks.common import print_table, run, save
from envs import make_vector_env
from experiments.methods import method_settings
from utils.replay import ReplayBuffer, Rows
from utils.seeds import place, seed_mesh, stack
from utils.training import train, zero_totals

FLAGS = flags.FLAGS
ENV_NAME = 'cube-double-play-singletask-task2-v0'
TINY = {
    'batch_size': 8,
    'actor_hidden_dims': (16,),
    'critic_hidden_dims': (16,),
    'num_samples': 4,
    'num_candidates': 4,
    'top_k': 2,
    'num_particles': 2,
}
SIZES = {'simulator-bound': (TINY, 2_000), 'update-bound': ({}, 15)}


class NoLogs:
    """Takes what a run would write."""

    def training(self, *_):
        pass


def random_rows(observation_dim: int, action_dim: int, num: int = 100_100) -> Rows:
    """Returns a data set of noise."""
    rng = np.random.default_rng(0)
    return Rows.of_dataset(
        {
            'observations': rng.standard_normal((num, observation_dim), np.float32),
            'actions': rng.uniform(-1, 1, (num, action_dim)).astype(np.float32),
            'rewards': -np.ones(num, np.float32),
            'masks': np.ones(num, np.float32),
            'terminals': np.arange(num) % 1001 == 1000,
        }
    )


def measure(num_seeds: int, changes: dict, num_steps: int) -> dict[str, float]:
    """Returns seconds per environment step of simulator, updates and loop."""
    FLAGS.online_steps, FLAGS.start_training = num_steps, 0
    FLAGS.eval_interval = FLAGS.log_interval = num_steps
    jax.set_mesh(seed_mesh(num_seeds))
    config, horizon = method_settings('DFP', ENV_NAME)
    config.update(changes)
    seeds = list(range(num_seeds))
    env = make_vector_env(ENV_NAME, num_seeds, horizon, 'play')
    observations, _ = env.reset(seed=seeds)
    chunk_space, _ = env.single_action_space
    description = {
        'agent': config.to_dict(),
        'observation_dim': observations.shape[-1],
        'action_dim': chunk_space.shape[-1],
        'horizon_length': horizon,
        'discount': 0.99,
    }
    rows = random_rows(observations.shape[-1], chunk_space.shape[-1])

    def new_buffers():
        buffers = ReplayBuffer.create(rows, 100_000).replicate(num_seeds)
        return place(buffers, buffers.seed_axes())

    def new_agents():
        return place(stack([make_agent(description, seed) for seed in seeds]), 0)

    def loop():
        with tqdm(total=num_steps, disable=True) as bar:
            agents = program.online(*fresh, env, seeds, NoLogs(), lambda *_: None, bar)
        return jax.block_until_ready(agents)

    def simulate():
        rng = np.random.default_rng(0)
        for _ in range(num_steps // horizon):
            chunks = rng.uniform(-1, 1, (num_seeds, *chunk_space.shape)).astype(np.float32)
            env.step((chunks, np.full(num_seeds, horizon)))

    agents = new_agents().begin_online()
    online_buffers = new_buffers().begin_online(num_steps)
    online_buffers = place(online_buffers, online_buffers.seed_axes())
    totals = zero_totals(agents, online_buffers)
    due = np.full(num_seeds, horizon)

    def update():
        nonlocal agents, totals
        for _ in range(num_steps // horizon):
            agents, totals = train(agents, online_buffers, due, totals)
        jax.block_until_ready(totals)

    parts = {'simulator': simulate, 'updates': update, 'loop': loop}
    times = {name: [] for name in parts}
    for repeat in range(FLAGS.repeats + 1):
        for name, part in parts.items():
            fresh = jax.block_until_ready((new_agents(), new_buffers()))
            start = time.perf_counter()
            part()
            if repeat:  # the first compiles
                times[name].append((time.perf_counter() - start) / num_steps)
    env.close()
    return {name: float(np.median(values)) for name, values in times.items()}


def main(_):
    rows = []
    for bound, (changes, num_steps) in SIZES.items():
        for num_seeds in (1, 4):
            took = measure(num_seeds, changes, num_steps)
            longer = max(took['simulator'], took['updates'])
            rows.append(
                {'': bound, 'seeds': num_seeds}
                | {f'{name}, ms': 1e3 * value for name, value in took.items()}
                | {'of the longer': took['loop'] / longer}
            )
            print(rows[-1], flush=True)
    print_table(rows)
    save(FLAGS.json, {'online': rows})


if __name__ == '__main__':
    flags.DEFINE_integer('repeats', 2, 'Of each, of which the median counts.')
    run(main)
