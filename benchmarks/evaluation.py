"""Measures the speed-up of evaluation in parallel environments.

python -m benchmarks.evaluation
"""

import os
import time

from absl import flags

import envs
from agents import make_agent
from benchmarks.common import Tables, make_rows, run
from experiments.methods import run_config
from training.evaluation import evaluate
from training.run import describe
from utils.seeds import stack
from utils.spec import Spec

FLAGS = flags.FLAGS


def main(_) -> Tables:
    config, rows = run_config('DFP', FLAGS.env_name), []
    env = envs.make_env(config.task)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    spec = Spec.of(make_rows(*sizes, episodes=1))
    policies = [stack([make_agent(describe(config, spec), seed=0).policy()])]
    for num_envs in sorted({1, os.cpu_count() or 1, 10}):
        simulators = envs.make_simulators(config.task, num_envs, config.horizon_length)
        evaluate(policies, simulators, num_envs, [0])  # compiles
        start = time.perf_counter()
        (scores,), _ = evaluate(policies, simulators, FLAGS.episodes, [0])
        took = time.perf_counter() - start
        simulators.end()
        rows.append(
            {
                'environments': num_envs,
                'seconds': took,
                'times as fast as one': (rows[0]['seconds'] if rows else took) / took,
                'steps/s': FLAGS.episodes * scores['length'] / took,
            }
        )
    return {'evaluation': rows}


if __name__ == '__main__':
    flags.DEFINE_string('env_name', 'cube-double-play-singletask-task2-v0', 'Task.')
    flags.DEFINE_integer('episodes', 50, 'Episodes to evaluate.')
    run(main)
