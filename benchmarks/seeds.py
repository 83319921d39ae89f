"""Measures what training seeds together gains, offline, in time per update of one seed.

python -m benchmarks.seeds
"""

from absl import flags

from benchmarks.common import (
    EPISODE_ROWS,
    EPISODES,
    SMALL,
    make_rows,
    measure,
    new_agent,
    print_table,
    run,
    save,
)
from utils.replay import ReplayBuffer, Rows
from utils.seeds import place, stack
from utils.training import train, zero_totals

FLAGS = flags.FLAGS


class Together:
    """Blocks of updates of several seeds in one dispatch."""

    def __init__(self, buffer, num_seeds, changes):
        buffers = buffer.replicate(num_seeds)
        self.buffers = place(buffers, buffers.seed_axes())
        agents = [new_agent('DFP', seed=seed, **changes) for seed in range(num_seeds)]
        self.agents = place(stack(agents), 0)
        self.totals = zero_totals(self.agents, self.buffers)

    def __call__(self, num_updates: int):
        self.agents, self.totals = train(self.agents, self.buffers, num_updates, self.totals)
        return self.totals


def main(_):
    buffer = ReplayBuffer.create(Rows.of_dataset(make_rows()), EPISODES * EPISODE_ROWS)
    rows = []
    for size, changes in (('small', SMALL), ('paper', {})):
        runners = {n: Together(buffer, n, changes) for n in FLAGS.num_seeds}
        times, _ = measure(runners, FLAGS.repeats)
        rows += [
            {
                'size': size,
                'seeds': n,
                'ms per update of all': 1e3 * took,
                'ms per seed-update': 1e3 * took / n,
                'seed-updates/s': n / took,
            }
            for n, took in times.items()
        ]
    print_table(rows)
    save(FLAGS.json, {'seeds': rows})


if __name__ == '__main__':
    flags.DEFINE_multi_integer('num_seeds', [1, 2, 5], 'Numbers of seeds.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates, of which the median counts.')
    run(main)
