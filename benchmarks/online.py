"""Measures the online loop against its two parts alone, simulation and updates.

    python -m benchmarks.online

The loop is `training.loop.advance`, from the change of phase to the last report, with OGBench's
simulators. Times are per environment step of all seeds together; `of the longer` is the loop's time
relative to the slower part. With small networks that is the simulator, with the paper's the
updates.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

import envs
from benchmarks.common import (
    ACTION_DIM,
    CUBE_DOUBLE,
    begin,
    make_rows,
    print_table,
    run,
    save,
    seconds,
)
from experiments.methods import run_config
from training import RunConfig, loop
from training.devices import set_up_jax
from training.loop import Resources
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


class OnlinePhase:
    """An online phase that can be repeated, and its parts."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.rows = Rows.from_dataset(make_rows(episodes=100))
        self.simulators = self.make_simulators()

    def make_simulators(self) -> envs.Simulators:
        config = self.config
        simulators = envs.make_simulators(config.task, config.num_seeds, config.horizon_length)
        simulators.wait()
        return simulators

    def before(self) -> tuple[RunState, Resources]:
        """Returns the end of an offline phase without updates, and the loop's resources."""
        state, data = begin(self.config, self.rows)
        self.simulators.end()
        self.simulators = self.make_simulators()
        jax.block_until_ready(state.seeds)
        resources = Resources(
            config=self.config,
            data=data,
            shards=None,  # used offline only
            log=None,  # this and the next are only used in reports
            eval_simulators=None,
            make_simulators=lambda: self.simulators,
            check=lambda: None,
            show_progress=False,
        )
        return state, resources

    def start(self) -> tuple[RunState, Resources]:
        """Returns the state after the first report, with the simulators in place."""
        state, resources = self.before()
        return change_phase(state, resources), resources

    def simulator(self) -> float:
        """Returns the seconds of the simulators."""
        return seconds(self._simulate)

    def _simulate(self) -> None:
        rng = np.random.default_rng(0)
        seeds, shape = range(self.config.num_seeds), (self.config.horizon_length, ACTION_DIM)
        self.simulators.begin({i: envs.Start(i) for i in seeds})
        for chunk in range(self.config.online_steps // self.config.horizon_length):
            chunks = {i: rng.uniform(-1, 1, shape).astype(np.float32) for i in seeds}
            self.simulators.play(chunks)
            over = set(seeds) - self.simulators.playing
            self.simulators.begin({i: envs.Start(1000 * i + chunk) for i in over})

    def updates(self) -> float:
        """Returns the seconds of the updates, dispatched once per chunk."""
        state, resources = self.start()
        return seconds(lambda: self._update(state, resources))

    def _update(self, state: RunState, resources: Resources) -> tuple[SeedState, ...]:
        horizon = self.config.horizon_length
        for step in range(horizon, self.config.online_steps + 1, horizon):
            state = loop.learn(state, resources, np.full(self.config.num_seeds, step))
        return state.seeds

    def loop(self) -> float:
        """Returns the seconds of both together."""
        state, resources = self.before()
        return seconds(lambda: self._play(state, resources))

    def _play(self, state: RunState, resources: Resources) -> tuple[SeedState, ...]:
        state = change_phase(state, resources)
        while not loop.ends_phase(state, self.config):
            state = loop.advance(state, resources)
        return state.seeds


def change_phase(state: RunState, resources: Resources) -> RunState:
    """Returns the state after the first online report, without making that report."""
    return loop.advance(state, resources).replace(reported=0)


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
    phase = OnlinePhase(config)
    parts: dict[str, Callable[[], float]] = {
        'simulator': phase.simulator,
        'updates': phase.updates,
        'loop': phase.loop,
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for repeat in range(FLAGS.repeats + 1):
        for name, part in parts.items():
            took = part()
            if repeat:  # the first compiles
                times[name].append(took / num_steps)
    phase.simulators.end()
    return {name: float(np.median(values)) for name, values in times.items()}


def main(_) -> None:
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
    print_table(rows)
    save(FLAGS.json, {'online': rows})


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 4], 'Numbers of seeds.')
    flags.DEFINE_integer('repeats', 2, 'Runs of each; the median is reported.')
    run(main)
