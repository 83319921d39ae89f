"""Measures the speed of data collection, relative to bare simulation.

    python -m benchmarks.collect --num_workers=2 --num_episodes=20

First one process runs a bare loop of environment and oracle that stores nothing. Then
`envs.collect` collects `num_episodes`; its rate is given with and without start-up (for the latter,
the time of one episode per worker is subtracted). The share is rate / (workers × bare rate).
"""

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from absl import app, flags
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

from benchmarks.common import print_table, run, save
from envs.collect import collect
from envs.ogbench.names import scene_of
from envs.ogbench.scripts import NOISE
from envs.ogbench.tasks import EPISODE_ROWS, make_collection_env


def play(env: gymnasium.Env, oracle: CubePlanOracle, seed: int) -> None:
    """Plays one episode of EPISODE_ROWS steps without storing it."""
    scene: Any = env.unwrapped
    np.random.seed(seed)  # noqa: NPY002  (the oracle draws from the global generator)
    observation, info = env.reset(seed=seed)
    oracle.reset(observation, info)
    truncated = False
    while not truncated:
        action = np.clip(oracle.select_action(observation, info), -1, 1)
        observation, _, _, truncated, info = env.step(action)
        if oracle.done:
            observation, info = scene.set_new_target(p_stack=0.1)
            oracle.reset(observation, info)


def measure(function: Callable, *arguments) -> np.ndarray:
    """Returns the wall-clock and CPU seconds of `function`.

    CPU seconds include child processes, and are more reliable on a busy machine.
    """
    start, start_cpu = time.perf_counter(), os.times()
    function(*arguments)
    cpu = np.subtract(os.times(), start_cpu)[:4].sum()
    return np.array([time.perf_counter() - start, cpu])


def play_bare(env: gymnasium.Env, oracle: CubePlanOracle, num_episodes: int) -> None:
    for seed in range(num_episodes):
        play(env, oracle, seed)


def collect_somewhere(name: str, num_episodes: int, num_workers: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        collect(name, num_episodes, directory, num_workers, num_val_episodes=0)


def main(_) -> None:
    name = flags.FLAGS.env_name
    episodes, workers = flags.FLAGS.num_episodes, flags.FLAGS.num_workers
    if workers < 1 or episodes < 2 * workers:
        raise app.UsageError(
            f'--num_episodes={episodes}: must be at least twice --num_workers={workers}'
        )
    env = make_collection_env(scene_of(name))
    oracle = CubePlanOracle(env=env, **NOISE)
    play(env, oracle, 0)
    half = max(1, episodes // workers // 2)
    seconds = measure(play_bare, env, oracle, half)
    start_up = measure(collect_somewhere, name, workers, workers)
    whole = measure(collect_somewhere, name, episodes, workers)
    seconds += measure(play_bare, env, oracle, half)

    bare = 2 * half * EPISODE_ROWS / seconds
    rows = [{'': 'bare loop, one process', 'steps/s': bare[0], 'share of workers x bare': 1.0}]
    rows[0] |= {'steps per CPU second': bare[1], 'share': 1.0}
    for label, count, took in (
        (f'{workers} workers, with start', episodes, whole),
        (f'{workers} workers, steady', episodes - workers, whole - start_up),
    ):
        rate = count * EPISODE_ROWS / took
        share = rate / bare / (workers, 1)
        rows.append(dict(zip(rows[0], (label, rate[0], share[0], rate[1], share[1]), strict=True)))
    rows = [{k: v if k == '' else float(v) for k, v in row.items()} for row in rows]
    print_table(rows)
    save(flags.FLAGS.json, {'collect': rows})


if __name__ == '__main__':
    flags.DEFINE_string('env_name', 'cube-double-play-v0', 'Data set to imitate.')
    flags.DEFINE_integer('num_episodes', 20, 'Episodes to collect.')
    flags.DEFINE_integer('num_workers', 2, 'Processes.')
    run(main)
