"""Measures the gain of training seeds together, in time per update of one seed.

    python -m benchmarks.seeds
    python -m benchmarks.seeds --sizes=paper --methods=DFP,QC-FQL

As in a run, several seeds get one CPU device per core, consecutive seeds share a device, and each
device gets one dispatch per block of updates. A single seed has one device, which uses all cores.
By default: DFP at small and at paper size; FQL, whose updates are the cheapest, at small size.
"""

import itertools

from absl import flags

from benchmarks.common import CUBE_DOUBLE, SMALL, Fused, Tables, make_rows, measure, run
from experiments.methods import run_config
from training.devices import set_up_jax
from utils.replay import Rows

FLAGS = flags.FLAGS
SIZES = {'small': SMALL, 'paper': {}}
DEFAULT = [('DFP', 'small'), ('DFP', 'paper'), ('FQL', 'small')]


def main(_) -> Tables:
    set_up_jax(max(FLAGS.num_seeds), compilation_cache_dir=None)
    rows, found = Rows.from_dataset(make_rows()), []
    cases = [*itertools.product(FLAGS.methods, FLAGS.sizes)] or DEFAULT
    for (method, size), phase in itertools.product(cases, FLAGS.phases):
        runners = {}
        for n in FLAGS.num_seeds:
            config = run_config(method, CUBE_DOUBLE, SIZES[size], num_seeds=n)
            runners[n] = Fused(config, rows, online=phase == 'online')
        times, _ = measure(runners, FLAGS.repeats)
        for n, took in times.items():
            found.append(
                {
                    'method': method,
                    'phase': phase,
                    'size': size,
                    'seeds': n,
                    'ms per update of all': 1e3 * took,
                    'ms per seed-update': 1e3 * took / n,
                    'seed-updates/s': n / took,
                }
            )
            print(found[-1], flush=True)
    return {'seeds': found}


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 2, 3, 5], 'Numbers of seeds.')
    flags.DEFINE_list('methods', [], 'Methods to measure.')
    flags.DEFINE_multi_enum('sizes', list(SIZES), list(SIZES), 'Sizes of the methods given.')
    flags.DEFINE_multi_enum('phases', ['offline'], ['offline', 'online'], 'Phases.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates; the median is reported.')
    run(main)
