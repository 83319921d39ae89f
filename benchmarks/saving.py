"""Measures the cost of a checkpoint: the pause of the run, the background work, and disk space.

    python -m benchmarks.saving
    python -m benchmarks.saving --num_seeds=1 --num_seeds=5 --transitions=100000

DFP at paper size with the shapes of cube-double: an offline state, and an online state whose replay
holds `--transitions` of its own. A run pauses while its state is copied to the host; the rest
happens in the background. The share of a run's time is that of one checkpoint every 10 minutes, the
default: only the pause if a core is idle, plus the background's CPU seconds per core if all are
busy. A run also syncs its tables to disk, which is not measured here.
"""

import itertools
import pathlib
import tempfile
import time

import jax
import numpy as np
from absl import flags

from benchmarks.common import CUBE_DOUBLE, EPISODE_ROWS, Tables, begin, make_rows, run, seconds
from envs.processes import num_cores
from experiments.methods import run_config
from training import RunConfig
from training import state as states
from training.checkpoints import Checkpoints
from training.devices import set_up_jax
from training.state import RunState
from utils.replay import Rows
from utils.seeds import stack

FLAGS = flags.FLAGS


def make_state(config: RunConfig, phase: str) -> RunState:
    """Returns the state at the end of a phase; the online replay is full of noise."""
    state, data = begin(config, Rows.from_dataset(make_rows(episodes=1)))
    if phase == 'offline':
        return state
    state = states.begin_online(state, data, config)
    own = make_rows(episodes=config.online_steps // (EPISODE_ROWS - 1))
    seeds = []
    for part in state.seeds:
        filled = Rows.from_dataset(own, size=part.replays.rows.size)
        filled = jax.device_put(stack([filled] * part.num_seeds), part.agents.rng.device)
        seeds.append(part.replace(replays=part.replays.replace(rows=filled)))
    return state.replace(seeds=tuple(seeds), step=config.online_steps)


def measure(state: RunState) -> dict[str, float]:
    """Saves and loads a state a few times; returns the medians."""
    found = []
    with tempfile.TemporaryDirectory(dir=FLAGS.directory) as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), keep=1)
        for number in range(FLAGS.repeats + 1):
            jax.block_until_ready(state.seeds)
            start = time.perf_counter()
            checkpoints.save(f'{state.phase}-{number:09d}', *states.to_arrays(state))
            handed_over, cpu = time.perf_counter(), time.process_time()
            checkpoints.wait()
            written, cpu = time.perf_counter(), time.process_time() - cpu
            took = {
                'stopped, s': handed_over - start,
                'in the background, s': written - handed_over,
                'of it CPU, s': cpu,
                'loading and verifying, s': seconds(checkpoints.newest),
                'MiB on disk': checkpoints.last.stat().st_size / 2**20,
            }
            if number:  # the first warms up
                found.append(took)
        checkpoints.close()
    return {name: float(np.median([took[name] for took in found])) for name in found[0]}


def main(_) -> Tables:
    set_up_jax(max(FLAGS.num_seeds), compilation_cache_dir=None)
    rows = []
    for num_seeds, phase in itertools.product(FLAGS.num_seeds, states.PHASES):
        config = run_config('DFP', CUBE_DOUBLE, num_seeds=num_seeds, online_steps=FLAGS.transitions)
        took, interval = measure(make_state(config, phase)), 60 * config.save_minutes
        busy = took['stopped, s'] + took['of it CPU, s'] / num_cores()
        rows.append(
            {
                'phase': phase,
                'seeds': num_seeds,
                'online transitions': FLAGS.transitions if phase == 'online' else 0,
                **took,
                'share with a spare core, %': 100 * took['stopped, s'] / interval,
                'share with all cores busy, %': 100 * busy / interval,
            }
        )
    return {'saving': rows}


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1], 'Numbers of seeds.')
    flags.DEFINE_integer('transitions', 1_000_000, 'Online transitions per seed, whole thousands.',
                         lower_bound=1_000)  # fmt: skip
    flags.DEFINE_string('directory', None, 'Folder for temporary checkpoints; a GB per seed.')
    flags.DEFINE_integer('repeats', 3, 'Checkpoints of each state; the median is reported.')
    run(main)
