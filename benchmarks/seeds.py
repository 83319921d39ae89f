"""Measures the gain of training seeds together, in time per update of one seed.

    python -m benchmarks.seeds
    python -m benchmarks.seeds --sizes=paper --methods=DFP,QC-FQL

As in a run, several seeds get one CPU device per core, consecutive seeds share a device, and each
device gets one dispatch per block of updates. A single seed has one device, which uses all cores.
By default: DFP at small and at paper size; FQL, whose updates are the cheapest, at small size.
"""

from typing import Any

from absl import flags

from benchmarks.common import (
    CUBE_DOUBLE,
    SMALL,
    check_methods,
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
SIZES: dict[str, dict[str, Any]] = {'small': SMALL, 'paper': {}}
DEFAULT = [('DFP', 'small'), ('DFP', 'paper'), ('FQL', 'small')]


def time_together(method: str, size: str, phase: str, rows: Rows) -> list[dict[str, Any]]:
    """Returns a row per number of seeds, and one for the largest number in bfloat16."""
    cases = [(n, 'float32') for n in FLAGS.num_seeds]
    if FLAGS.bfloat16:
        cases += [(max(FLAGS.num_seeds), 'bfloat16')]
    runners = {}
    for n, dtype in cases:
        changes = SIZES[size] | {'score_dtype': dtype}
        config = run_config(method, CUBE_DOUBLE, changes, num_seeds=n)
        runners[n, dtype] = fused(config, rows, online=phase == 'online')
    times, _ = measure(runners, FLAGS.repeats)
    return [
        {
            'method': method,
            'phase': phase,
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
    check_methods(FLAGS.methods)
    set_up_jax(max(FLAGS.num_seeds), compilation_cache_dir=None)
    rows = Rows.from_dataset(make_rows())
    cases = [(m, s) for m in FLAGS.methods for s in FLAGS.sizes] if FLAGS.methods else DEFAULT
    found = []
    for method, size in cases:
        for phase in FLAGS.phases:
            found += time_together(method, size, phase, rows)
            print_table(found[-len(FLAGS.num_seeds) - FLAGS.bfloat16 :])
    save(FLAGS.json, {'seeds': found})


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 2, 3, 5], 'Numbers of seeds.')
    flags.DEFINE_list('methods', [], 'Methods to measure.')
    flags.DEFINE_multi_enum('sizes', list(SIZES), list(SIZES), 'Sizes of the methods given.')
    flags.DEFINE_multi_enum('phases', ['offline'], ['offline', 'online'], 'Phases.')
    flags.DEFINE_bool('bfloat16', True, 'Measure scoring in bfloat16 too.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates; the median is reported.')
    run(main)
