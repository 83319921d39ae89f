"""Measures the memory that loading a data set takes, and the time that switching shards takes.

    python -m benchmarks.data

Data of the public sizes is generated: noise in OGBench's format. Memory: cube-triple's 3M rows
in one file, the peak of a process that puts them on the device, over the bytes of what it keeps.
Switching: shards of cube-quadruple-play-100m, a new one every 1,000 updates, against as many
updates on one shard.
"""

import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import flags

from agents import make_agent
from benchmarks.common import SMALL, print_table, run, save
from envs import make_dataset, make_env
from experiments.methods import method_settings
from utils.replay import ReplayBuffer
from utils.seeds import stack
from utils.streaming import ShardReader
from utils.training import train, zero_totals

FLAGS = flags.FLAGS
TRIPLE = 'cube-triple-play-singletask-task2-v0'
QUADRUPLE = 'cube-quadruple-play-100m-singletask-task2-v0'


def generate(path: pathlib.Path, env_name: str, num_rows: int) -> None:
    """Writes a file of noise in the format of OGBench's."""
    env = make_env(env_name)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    model = env.unwrapped.model
    np.savez(
        path,
        observations=rng.standard_normal((num_rows, env.observation_space.shape[0]), np.float32),
        actions=rng.uniform(-1, 1, (num_rows, env.action_space.shape[0])).astype(np.float32),
        terminals=np.arange(num_rows) % 1001 == (num_rows - 1) % 1001,
        qpos=rng.standard_normal((num_rows, model.nq), np.float32),
        qvel=rng.standard_normal((num_rows, model.nv), np.float32),
    )


def load_triple(directory: str) -> None:
    """Puts the data set on the device and prints bytes kept, peak and what was there before."""
    dataset = make_dataset(TRIPLE, directory)
    before = peak()
    buffer = ReplayBuffer.create(ShardReader(dataset).take(), 2_000_000)
    kept = sum(x.nbytes for x in jax.tree.leaves(buffer))
    print(kept, peak(), before)


def peak() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(directory: pathlib.Path) -> dict[str, float]:
    generate(directory / 'cube-triple-play-v0.npz', TRIPLE, FLAGS.triple_rows)
    command = [sys.executable, '-m', 'benchmarks.data', f'--load_triple={directory}']
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept, most, before = map(int, output.split()[-3:])
    return {
        'rows': FLAGS.triple_rows,
        'stored, GiB': kept / 2**30,
        'peak, GiB': most / 2**30,
        'before loading, GiB': before / 2**30,
        'allowed (1.3 x stored + 1.5), GiB': 1.3 * kept / 2**30 + 1.5,
    }


def switching(directory: pathlib.Path) -> dict[str, float]:
    """Times blocks of 1,000 updates that end in a switch, and blocks that do not, in turn."""
    generate(directory / 'cube-quadruple-play-100m-v0-000.npz', QUADRUPLE, FLAGS.shard_rows)
    for i in (1, 2):
        (directory / f'cube-quadruple-play-100m-v0-{i:03}.npz').hardlink_to(
            directory / 'cube-quadruple-play-100m-v0-000.npz'
        )
    dataset = make_dataset(QUADRUPLE, str(directory))
    reader = ShardReader(dataset)
    buffers = ReplayBuffer.create(reader.take(), 2_000_000).replicate(1)
    config, horizon = method_settings('DFP', QUADRUPLE)
    if FLAGS.small:
        config.update(SMALL)
    env = make_env(QUADRUPLE)
    agents = stack(
        [
            make_agent(
                {
                    'agent': config.to_dict(),
                    'observation_dim': env.observation_space.shape[0],
                    'action_dim': env.action_space.shape[0],
                    'horizon_length': horizon,
                    'discount': 0.99,
                },
                seed=0,
            )
        ]
    )
    totals = zero_totals(agents, buffers)
    start = time.perf_counter()
    rows = dataset.load(0)
    read = time.perf_counter() - start
    del rows
    times = {'without': [], 'with': [], 'waited': []}
    for repeat in range(FLAGS.repeats + 1):
        for kind in ('without', 'with'):
            start = time.perf_counter()
            if kind == 'with':
                reader.read_ahead()
            agents, totals = train(agents, buffers, FLAGS.updates, totals)
            jax.block_until_ready(totals)
            trained = time.perf_counter()
            if kind == 'with':
                buffers = buffers.load(reader.take())
            if repeat:
                times[kind].append(time.perf_counter() - start)
                if kind == 'with':
                    times['waited'].append(time.perf_counter() - trained)
    median = {name: float(np.median(values)) for name, values in times.items()}
    return {
        'rows per shard': FLAGS.shard_rows,
        'reading alone, s': read,
        '1,000 updates, s': median['without'],
        'with a switch, s': median['with'],
        'waited at the switch, s': median['waited'],
        'cost of switching, %': 100 * (median['with'] / median['without'] - 1),
        'peak, GiB': peak() / 2**30,
    }


def main(_):
    if FLAGS.load_triple:
        load_triple(FLAGS.load_triple)
        return
    results = {}
    with tempfile.TemporaryDirectory(dir=FLAGS.directory) as directory:
        results['memory'] = [memory(pathlib.Path(directory))]
    print_table(results['memory'])
    with tempfile.TemporaryDirectory(dir=FLAGS.directory) as directory:
        results['switching'] = [switching(pathlib.Path(directory))]
    print_table(results['switching'])
    save(FLAGS.json, results)


if __name__ == '__main__':
    flags.DEFINE_string('directory', None, 'Where generated files go for a while; a few GB.')
    flags.DEFINE_integer('triple_rows', 3_003_000, 'Rows of cube-triple.')
    flags.DEFINE_integer('shard_rows', 1_001_000, 'Rows of a shard.')
    flags.DEFINE_integer('updates', 1_000, 'Updates between switches.')
    flags.DEFINE_bool('small', True, "Networks of 2 x 128; else the paper's.")
    flags.DEFINE_integer('repeats', 3, 'Blocks of each kind, of which the median counts.')
    flags.DEFINE_string('load_triple', None, 'For the program itself: only load, from here.')
    run(main)
