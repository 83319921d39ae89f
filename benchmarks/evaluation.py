"""Measures what it gains to evaluate in parallel environments.

python -m benchmarks.evaluation
"""

import os
import time

from absl import flags

from agents import make_agent
from benchmarks.common import print_table, run, save
from envs import make_vector_env
from experiments.methods import method_settings
from utils.evaluation import evaluate
from utils.seeds import stack

FLAGS = flags.FLAGS


def main(_):
    config, horizon = method_settings('DFP', FLAGS.env_name)
    times, steps = {}, {}
    for num_envs in sorted({1, os.cpu_count(), 10}):
        env = make_vector_env(FLAGS.env_name, num_envs, horizon, 'evaluate')
        chunk_shape = env.single_action_space.shape
        agent = make_agent(
            {
                'agent': config.to_dict(),
                'observation_dim': env.single_observation_space.shape[0],
                'action_dim': chunk_shape[-1],
                'horizon_length': horizon,
                'discount': 0.99,
            },
            seed=0,
        )
        evaluate(stack([agent]), env, num_envs, [0])  # compiles
        start = time.perf_counter()
        (scores,) = evaluate(stack([agent]), env, FLAGS.episodes, [0])
        times[num_envs] = time.perf_counter() - start
        steps[num_envs] = FLAGS.episodes * scores['length']
        env.close()
    rows = [
        {
            'environments': num_envs,
            'seconds': took,
            'times as fast as one': times[1] / took,
            'steps/s': steps[num_envs] / took,
        }
        for num_envs, took in times.items()
    ]
    print_table(rows)
    save(FLAGS.json, {'evaluation': rows, 'episodes': FLAGS.episodes})


if __name__ == '__main__':
    flags.DEFINE_string('env_name', 'cube-double-play-singletask-task2-v0', 'Task.')
    flags.DEFINE_integer('episodes', 50, 'Episodes to evaluate.')
    run(main)
