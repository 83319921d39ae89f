"""Measures the speed-up of evaluation in parallel environments.

python -m benchmarks.evaluation
"""

import os
import time

from absl import flags

import envs
from agents import make_agent
from benchmarks.common import make_rows, print_table, run, save
from experiments.methods import run_config
from training.evaluation import evaluate
from training.run import describe
from utils.seeds import stack
from utils.spec import Spec

FLAGS = flags.FLAGS


def main(_) -> None:
    config = run_config('DFP', FLAGS.env_name)
    env = envs.make_env(config.task)
    observation_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    times, steps = {}, {}
    for num_envs in sorted({1, os.cpu_count() or 1, 10}):
        simulators = envs.make_simulators(config.task, num_envs, config.horizon_length)
        spec = Spec.of(make_rows(observation_dim, action_dim, episodes=1))
        agent = make_agent(describe(config, spec), seed=0)
        policies = [stack([agent.policy()])]
        evaluate(policies, simulators, num_envs, [0])  # compiles
        start = time.perf_counter()
        (scores,), _ = evaluate(policies, simulators, FLAGS.episodes, [0])
        times[num_envs] = time.perf_counter() - start
        steps[num_envs] = FLAGS.episodes * scores['length']
        simulators.end()
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
