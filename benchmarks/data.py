"""Measures the memory to load a data set, and the time to switch shards.

    python -m benchmarks.data

The data is noise in OGBench's format, at the public sizes. Memory: the peak of a process that puts
cube-triple's 3M rows on the device, relative to the bytes it keeps. Switching: a new shard of
cube-quadruple-play-100m every 1,000 updates, against as many updates on one shard, with 2 x 128
networks and the paper's.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.common import SMALL, fused, print_table, run, save, seconds
from envs import make_dataset, make_env
from experiments.methods import run_config
from training.shards import ShardReader
from utils.replay import Replay

FLAGS = flags.FLAGS
TRIPLE = 'cube-triple-play-singletask-task2-v0'
QUADRUPLE = 'cube-quadruple-play-100m-singletask-task2-v0'


def generate(path: pathlib.Path, env_name: str, num_rows: int) -> None:
    """Writes a file of noise in the format of OGBench's."""
    env = make_env(env_name)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    scene: Any = env.unwrapped
    model = scene.model
    np.savez(
        path,
        observations=rng.standard_normal((num_rows, env.observation_space.shape[0]), np.float32),
        actions=rng.uniform(-1, 1, (num_rows, env.action_space.shape[0])).astype(np.float32),
        terminals=np.arange(num_rows) % 1001 == (num_rows - 1) % 1001,
        qpos=rng.standard_normal((num_rows, model.nq), np.float32),
        qvel=rng.standard_normal((num_rows, model.nv), np.float32),
    )


def load_triple(directory: str) -> None:
    """Puts the data set on the device and prints the bytes kept, the peak, and those before."""
    dataset = make_dataset(TRIPLE, ogbench_dataset_dir=directory)
    before = peak()
    _, data = ShardReader(dataset).take()
    kept = sum(x.nbytes for x in jax.tree.leaves((data, Replay.create(data, 2_000_000))))
    print(kept, peak(), before)


def peak() -> int:
    """Returns the peak resident memory of this process, in bytes.

    It is read from /proc, because getrusage includes the parent's memory at the fork.
    """
    status = pathlib.Path('/proc/self/status').read_text('utf-8')
    return 1024 * int(re.search(r'VmHWM:\s*(\d+) kB', status)[1])


def memory(directory: pathlib.Path) -> dict[str, float]:
    """Returns the memory that a fresh process needs to load cube-triple."""
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


def switching(directory: pathlib.Path) -> list[dict[str, Any]]:
    """Times blocks of updates with and without a switch at their end, in turn.

    A block may be shorter than the 1,000 updates between switches: it is long enough to read a
    shard, and the time that a switch adds is compared with that of 1,000 updates.
    """
    first = directory / 'cube-quadruple-play-100m-v0-000.npz'
    generate(first, QUADRUPLE, FLAGS.shard_rows)
    for i in (1, 2):
        (directory / f'cube-quadruple-play-100m-v0-{i:03}.npz').hardlink_to(first)
    dataset = make_dataset(QUADRUPLE, ogbench_dataset_dir=str(directory))
    read = seconds(lambda: dataset.load(0))
    reader = ShardReader(dataset)
    found = []
    for size, changes, num_updates in (('small', SMALL, 1_000), ('paper', {}, FLAGS.paper_updates)):
        runner = fused(run_config('DFP', QUADRUPLE, changes), reader.take()[1])
        jax.block_until_ready(runner(1))  # compiles
        without, switched, waited = [], [], []
        for _ in range(FLAGS.repeats):
            without.append(seconds(lambda: runner(num_updates)))  # noqa: B023
            start = time.perf_counter()
            reader.read_ahead()
            jax.block_until_ready(runner(num_updates))
            trained = time.perf_counter()
            runner.data = [reader.take()[1]]
            switched.append(time.perf_counter() - start)
            waited.append(time.perf_counter() - trained)
        added = float(np.median(np.subtract(switched, without)))
        between = 1_000 * float(np.median(without)) / num_updates
        found.append(
            {
                'size': size,
                'rows per shard': FLAGS.shard_rows,
                'reading alone, s': read,
                '1,000 updates, s': between,
                'a switch adds, s': added,
                'of it waiting, s': float(np.median(waited)),
                'cost of switching, %': 100 * added / between,
                'peak, GiB': peak() / 2**30,
            }
        )
    reader.close()
    return found


def main(_) -> None:
    if FLAGS.load_triple:
        load_triple(FLAGS.load_triple)
        return
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=FLAGS.directory) as directory:
        results['memory'] = [memory(pathlib.Path(directory))]
    print_table(results['memory'])
    with tempfile.TemporaryDirectory(dir=FLAGS.directory) as directory:
        results['switching'] = switching(pathlib.Path(directory))
    print_table(results['switching'])
    save(FLAGS.json, results)


if __name__ == '__main__':
    flags.DEFINE_string('directory', None, 'Folder for temporary files of a few GB.')
    flags.DEFINE_integer('triple_rows', 3_003_000, 'Rows of cube-triple.')
    flags.DEFINE_integer('shard_rows', 1_001_000, 'Rows of a shard.')
    flags.DEFINE_integer('paper_updates', 20, "Updates of a block with the paper's networks.")
    flags.DEFINE_integer('repeats', 7, 'Blocks of each kind; the median is reported.')
    flags.DEFINE_string('load_triple', None, 'Internal: only load, from this folder.')
    run(main)
