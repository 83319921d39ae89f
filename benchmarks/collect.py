"""Measures how much of the machine's simulation speed collection keeps.

    python -m benchmarks.collect --num_workers=2 --num_episodes=20

One process plays in a bare loop of environment and oracle that stores nothing; then `envs.collect`
plays `num_episodes`, whose rate is given with and without the start of its processes (the time
that one episode per worker takes is subtracted). The share is rate / (workers × bare rate).
"""

import tempfile
import time

import numpy as np
from absl import app, flags
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

from envs.collect import NOISE, collect
from envs.cube import EPISODE_ROWS, make_collection_env, parse_dataset


def play(env, oracle, seed):
    """Plays one episode of EPISODE_ROWS steps and keeps nothing."""
    np.random.seed(seed)  # noqa: NPY002  (the oracle draws from the global generator)
    observation, info = env.reset(seed=seed)
    oracle.reset(observation, info)
    truncated = False
    while not truncated:
        action = np.clip(oracle.select_action(observation, info), -1, 1)
        observation, _, _, truncated, info = env.step(action)
        if oracle.done:
            observation, info = env.unwrapped.set_new_target(p_stack=0.1)
            oracle.reset(observation, info)


def bare_rate(name, num_episodes):
    """Steps per second of one process, once the environment is made."""
    env = make_collection_env(parse_dataset(name))
    oracle = CubePlanOracle(env=env, **NOISE)
    env.reset(seed=0)
    start = time.perf_counter()
    for seed in range(num_episodes):
        play(env, oracle, seed)
    return num_episodes * EPISODE_ROWS / (time.perf_counter() - start)


def collection_seconds(name, num_episodes, num_workers):
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        collect(name, num_episodes, directory, num_workers, num_val_episodes=0)
        return time.perf_counter() - start


def main(_):
    name = flags.FLAGS.env_name
    episodes, workers = flags.FLAGS.num_episodes, flags.FLAGS.num_workers
    if workers < 1 or episodes < 2 * workers:
        raise app.UsageError(
            f'--num_episodes={episodes}: must be at least twice --num_workers={workers}'
        )
    before = bare_rate(name, episodes // workers // 2)
    start_up = collection_seconds(name, workers, workers)
    seconds = collection_seconds(name, episodes, workers)
    after = bare_rate(name, episodes // workers // 2)

    bare = (before + after) / 2
    whole = episodes * EPISODE_ROWS / seconds
    steady = (episodes - workers) * EPISODE_ROWS / (seconds - start_up)
    print(f'{name}, {workers} workers, {episodes} episodes, steps/s')
    print(f'bare loop, one process   {bare:6.0f}  (before {before:.0f}, after {after:.0f})')
    for label, rate in (('collection, with start  ', whole), ('collection, steady      ', steady)):
        print(f'{label} {rate:6.0f}  share {rate / (workers * bare):.2f}')


if __name__ == '__main__':
    flags.DEFINE_string('env_name', 'cube-double-play-v0', 'Data set to imitate.')
    flags.DEFINE_integer('num_episodes', 20, 'Episodes to collect.')
    flags.DEFINE_integer('num_workers', 2, 'Processes.')
    app.run(main)
