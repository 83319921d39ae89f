"""Measures the online loop against its two parts alone, simulation and updates.

    python -m benchmarks.online

The loop is `training.loop.advance`, from the change of phase to the last report, with OGBench's
simulators. Times are per environment step of all seeds together; `of the longer` is the loop's time
relative to the slower part. With small networks that is the simulator, with the paper's the
updates.
"""

from typing import Any

import jax
import numpy as np
from absl import flags

import envs
from benchmarks.common import ACTION_DIM, CUBE_DOUBLE, Tables, begin, make_rows, run, seconds
from experiments.methods import run_config
from training import loop
from training.devices import set_up_jax
from training.loop import RunContext
from training.state import RunState, SeedState
from utils.replay import Rows

FLAGS = flags.FLAGS
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


def simulate(run: RunContext) -> None:
    """Plays as many steps as the online phase has, with random actions."""
    config, rng = run.config, np.random.default_rng(0)
    seeds, shape = range(config.num_seeds), (config.horizon_length, ACTION_DIM)
    simulators = run.make_simulators()
    simulators.begin({i: envs.Start(i) for i in seeds})
    for chunk in range(config.online_steps // config.horizon_length):
        simulators.play({i: rng.uniform(-1, 1, shape).astype(np.float32) for i in seeds})
        over = set(seeds) - simulators.playing
        simulators.begin({i: envs.Start(1000 * i + chunk) for i in over})


def update(state: RunState, run: RunContext) -> tuple[SeedState, ...]:
    """Makes the updates of the online phase, dispatched once per chunk."""
    horizon = run.config.horizon_length
    for step in range(horizon, run.config.online_steps + 1, horizon):
        state = loop.learn(state, run, np.full(run.config.num_seeds, step))
    return state.seeds


def play(state: RunState, run: RunContext) -> tuple[SeedState, ...]:
    """Makes the online phase, without its reports."""
    state = change_phase(state, run)
    while not loop.ends_phase(state, run.config):
        state = loop.advance(state, run)
    return state.seeds


def change_phase(state: RunState, run: RunContext) -> RunState:
    """Returns the state after the first online report, without making that report."""
    return loop.advance(state, run).replace(reported=0)


def measure(num_seeds: int, changes: dict[str, Any], num_steps: int) -> dict[str, float]:
    """Returns seconds per environment step of simulator, updates and loop."""
    config = run_config(
        'DFP',
        CUBE_DOUBLE,
        changes,
        num_seeds=num_seeds,
        offline_steps=0,
        online_steps=num_steps,
        start_training=0,
        buffer_size=100_000,
        eval_interval=num_steps,
        log_interval=num_steps,
    )
    rows = Rows.from_dataset(make_rows(episodes=100))
    parts = {
        'simulator': lambda _, run: seconds(simulate, run),
        'updates': lambda state, run: seconds(update, change_phase(state, run), run),
        'loop': lambda state, run: seconds(play, state, run),
    }
    times = {name: [] for name in parts}
    for repeat in range(FLAGS.repeats + 1):
        for name, part in parts.items():
            simulators = envs.make_simulators(config.task, num_seeds, config.horizon_length)
            simulators.wait()
            state, data = begin(config, rows)
            jax.block_until_ready(state.seeds)
            context = RunContext(
                config=config,
                data=data,
                shards=None,  # used offline only
                log=None,  # this and the next are only used in reports
                eval_simulators=None,
                make_simulators=lambda simulators=simulators: simulators,
                check=lambda: None,
                show_progress=False,
            )
            took = part(state, context)
            simulators.end()
            if repeat:  # the first compiles
                times[name].append(took / num_steps)
    return {name: float(np.median(values)) for name, values in times.items()}


def main(_) -> Tables:
    set_up_jax(max(FLAGS.num_seeds), compilation_cache_dir=None)
    rows = []
    for bound, (changes, num_steps) in SIZES.items():
        for num_seeds in FLAGS.num_seeds:
            took = measure(num_seeds, changes, num_steps)
            longer = max(took['simulator'], took['updates'])
            rows.append(
                {'': bound, 'seeds': num_seeds}
                | {f'{name}, ms': 1e3 * value for name, value in took.items()}
                | {'of the longer': took['loop'] / longer}
            )
            print(rows[-1], flush=True)
    return {'online': rows}


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 4], 'Numbers of seeds.')
    flags.DEFINE_integer('repeats', 2, 'Runs of each; the median is reported.')
    run(main)
