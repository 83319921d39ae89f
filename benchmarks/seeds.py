"""Measures what training seeds together gains, offline, in time per update of one seed.

python -m benchmarks.seeds
"""

from absl import flags

from benchmarks.common import (
    SMALL,
    Fused,
    make_buffer,
    make_rows,
    measure,
    new_agent,
    print_table,
    run,
    save,
)

FLAGS = flags.FLAGS


def main(_):
    buffer = make_buffer(make_rows())
    most = max(FLAGS.num_seeds)
    cases = [(n, 'float32') for n in FLAGS.num_seeds] + [(most, 'bfloat16')]
    rows = []
    for size, changes in (('small', SMALL), ('paper', {})):
        runners = {
            (n, dtype): Fused(
                [new_agent('DFP', seed, score_dtype=dtype, **changes) for seed in range(n)], buffer
            )
            for n, dtype in cases
        }
        times, _ = measure(runners, FLAGS.repeats)
        rows += [
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
    print_table(rows)
    save(FLAGS.json, {'seeds': rows})


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 2, 5], 'Numbers of seeds.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates, of which the median counts.')
    run(main)
