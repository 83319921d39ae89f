"""Measures updates against their arithmetic floor, and the gain of fusing them.

    python -m benchmarks.update

Paper size: 4 × 512, B = 256, 37-dimensional observations, 5-dimensional actions. Small size:
2 × 128, B = 64. The floor of an update is its necessary floating-point work (benchmarks/flops.py)
divided by the rate of a 4096×512 · 512×512 float32 product, measured between the blocks of updates.
Fused updates sample on the device; one by one, each update is its own dispatch, with a batch that
NumPy samples on the host.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from agents.base import Agent, Info
from benchmarks.common import (
    CUBE_DOUBLE,
    SMALL,
    check_methods,
    fused,
    make_rows,
    measure,
    new_agent,
    print_table,
    run,
    save,
)
from benchmarks.flops import update_flops
from experiments.methods import METHODS, run_config
from utils.replay import Rows


class OneByOne:
    """One dispatch per update, on batches that NumPy gathers on the host."""

    def __init__(self, agent: Agent, rows: dict[str, np.ndarray]):
        self.agent, self.rows = jax.tree.map(jnp.copy, agent), rows
        self.rng = np.random.default_rng(0)
        self.starts = np.flatnonzero(~rows['terminals'])
        self.discounts = agent.discount ** np.arange(agent.horizon_length, dtype=np.float32)

    def sample(self) -> dict[str, np.ndarray]:
        rows, horizon = self.rows, self.agent.horizon_length
        start = self.rng.choice(self.starts, self.agent.config.batch_size)
        last = len(rows['terminals']) - 1
        steps = np.minimum(start[:, None] + np.arange(horizon), last)
        valid = np.cumsum(rows['terminals'][steps], axis=1) == 0
        return {
            'observations': rows['observations'][start],
            'actions': rows['actions'][steps],
            'rewards': (rows['rewards'][steps] * valid * self.discounts).sum(axis=1),
            'masks': np.where(valid, rows['masks'][steps], 1.0).prod(axis=1, dtype=np.float32),
            'next_observations': rows['observations'][np.minimum(start + horizon, last)],
            'valid': valid.astype(np.float32),
        }

    def __call__(self, num_updates: int) -> Info:
        for _ in range(num_updates):
            self.agent, info = self.agent.update(self.sample())
        return info


def phases(method: str, **changes) -> dict[str, Agent]:
    """Returns the method's agent in each phase that has its own update."""
    agent = new_agent(method, **changes)
    online = agent.begin_online()
    if update_flops(agent) == update_flops(online):
        return {'both': agent}
    return {'offline': agent, 'online': online}


def main(_) -> None:
    methods, repeats = flags.FLAGS.methods, flags.FLAGS.repeats
    check_methods(methods)
    rows = make_rows()
    on_device = Rows.from_dataset(rows)
    results: dict[str, list[dict[str, Any]]] = {}
    for size, changes in (('paper_size', {}), ('small_size', SMALL)):
        results[size] = []
        for method in methods:
            config = run_config(method, CUBE_DOUBLE, changes)
            for phase, agent in phases(method, **changes).items():
                runners = {
                    'fused': fused(config, on_device, online=agent.online),
                    'single': OneByOne(agent, rows),
                }
                times, rate = measure(runners, repeats)
                flops = update_flops(agent)
                results[size].append(
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
        print_table(results[size])
    save(flags.FLAGS.json, results)


if __name__ == '__main__':
    flags.DEFINE_list('methods', list(METHODS), 'Methods to measure.')
    flags.DEFINE_integer('repeats', 5, 'Blocks of updates; the median is reported.')
    run(main)
