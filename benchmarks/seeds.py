"""Measures what training seeds together gains, offline, in time per update of one seed.

    python -m benchmarks.seeds

As in a run, several seeds get as many CPU devices as there are cores, consecutive seeds share a
device, and each device gets one dispatch for a block of updates. A single seed has one device,
which uses all cores. DFP at small and at paper size; FQL, whose updates are the cheapest, at small
size.
"""

from typing import Any

from absl import flags

from benchmarks.common import (
    CUBE_DOUBLE,
    SMALL,
    fused,
    make_rows,
    measure,
    print_table,
    run,
    save,
)
from experiments.methods import run_config
from training.devices import set_up_jax
from utils.replay import Rows

FLAGS = flags.FLAGS


def time_together(method: str, size: str, changes: dict[str, Any], rows: Rows) -> list[dict]:
    """Returns a row for each number of seeds, and one for most of them in bfloat16."""
    cases = [(n, 'float32') for n in FLAGS.num_seeds] + [(max(FLAGS.num_seeds), 'bfloat16')]
    runners = {}
    for n, dtype in cases:
        config = run_config(method, CUBE_DOUBLE, changes | {'score_dtype': dtype}, num_seeds=n)
        runners[n, dtype] = fused(config, rows)
    times, _ = measure(runners, FLAGS.repeats)
    return [
        {
            'size': size,
            'seeds': n,
            'score_dtype': dtype,
            'ms per update of all': 1e3 * took,
            'ms per seed-update': 1e3 * took / n,
            'seed-updates/s': n / took,
        }
        for (n, dtype), took in times.items()
    ]


def main(_) -> None:
    set_up_jax(max(FLAGS.num_seeds), compilation_cache_dir=None)
    rows = Rows.from_dataset(make_rows())
    results = {'seeds': time_together('DFP', 'small', SMALL, rows)}
    results['seeds'] += time_together('DFP', 'paper', {}, rows)
    print_table(results['seeds'])
    results['fql'] = time_together('FQL', 'small', SMALL, rows)
    print_table(results['fql'])
    save(FLAGS.json, results)


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 2, 3, 5], 'Numbers of seeds.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates, of which the median counts.')
    run(main)
