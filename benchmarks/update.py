"""Measures updates against their arithmetic floor, and the gain of fusing them.

    python -m benchmarks.update

Paper size: 4 × 512, B = 256, 37-dimensional observations, 5-dimensional actions. Small size:
2 × 128, B = 64. The floor of an update is its necessary floating-point work (benchmarks/flops.py)
divided by the rate of a 4096×512 · 512×512 float32 product, measured between the blocks of updates.
Fused updates are one dispatch per block; one by one, each update is its own.
"""

from absl import flags

from benchmarks.common import CUBE_DOUBLE, SMALL, Fused, Tables, make_rows, measure, new_agent, run
from benchmarks.flops import update_flops
from experiments.methods import METHODS, run_config
from utils.replay import Rows

FLAGS = flags.FLAGS


def main(_) -> Tables:
    rows, tables = Rows.from_dataset(make_rows()), {}
    for size, changes in (('paper_size', {}), ('small_size', SMALL)):
        tables[size] = []
        for method in FLAGS.methods:
            config = run_config(method, CUBE_DOUBLE, changes)
            agent = new_agent(method, **changes)
            work = {'offline': update_flops(agent), 'online': update_flops(agent.begin_online())}
            if work['offline'] == work['online']:
                work = {'both': work['offline']}
            for phase, flops in work.items():
                fused, single = (Fused(config, rows, online=phase == 'online') for _ in range(2))
                runners = {
                    'fused': fused,
                    'single': lambda n, f=single: [f(1) for _ in range(n)][-1],
                }
                times, rate = measure(runners, FLAGS.repeats)
                tables[size].append(
                    {
                        'method': method,
                        'phase': phase,
                        'GFLOP': flops / 1e9,
                        'ms fused': 1e3 * times['fused'],
                        'GFLOP/s of the product': rate / 1e9,
                        'times the floor': times['fused'] * rate / flops,
                        'ms one by one': 1e3 * times['single'],
                        'times as long': times['single'] / times['fused'],
                    }
                )
                print(tables[size][-1], flush=True)
    return tables


if __name__ == '__main__':
    flags.DEFINE_list('methods', list(METHODS), 'Methods to measure.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates; the median is reported.')
    run(main)
