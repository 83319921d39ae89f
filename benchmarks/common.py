"""What the benchmarks share: agents, data, clocks, and a description of the machine."""

import functools
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from agents import make_agent
from agents.base import Agent
from experiments.methods import method_settings
from utils.logs import versions
from utils.replay import ReplayBuffer, Rows
from utils.seeds import stack
from utils.training import train, zero_totals

OBSERVATION_DIM, ACTION_DIM, DISCOUNT = 37, 5, 0.99
EPISODES, EPISODE_ROWS = 200, 1001
SMALL = {'batch_size': 64, 'actor_hidden_dims': (128, 128), 'critic_hidden_dims': (128, 128)}


def new_agent(method: str, seed: int = 0, **changes) -> Agent:
    """Makes an agent of the paper's table for cube-double."""
    config, horizon_length = method_settings(method, 'cube-double-play-singletask-task2-v0')
    config.update(changes)
    return make_agent(
        {
            'agent': config.to_dict(),
            'observation_dim': OBSERVATION_DIM,
            'action_dim': ACTION_DIM,
            'horizon_length': horizon_length,
            'discount': DISCOUNT,
        },
        seed,
    )


def make_rows(seed: int = 0) -> dict[str, np.ndarray]:
    """Makes random data of the size of a small data set."""
    rng = np.random.default_rng(seed)
    num = EPISODES * EPISODE_ROWS
    return {
        'observations': rng.standard_normal((num, OBSERVATION_DIM), np.float32),
        'actions': rng.uniform(-1, 1, (num, ACTION_DIM)).astype(np.float32),
        'rewards': rng.integers(-2, 1, num).astype(np.float32),
        'masks': np.ones(num, np.float32),
        'terminals': np.arange(num) % EPISODE_ROWS == EPISODE_ROWS - 1,
    }


def make_buffer(rows: dict[str, np.ndarray]) -> ReplayBuffer:
    """Puts the rows of `make_rows` into a buffer."""
    return ReplayBuffer.create(Rows.of_dataset(rows), EPISODES * EPISODE_ROWS)


class Fused:
    """Blocks of updates of one or more seeds in one dispatch, sampled on the device."""

    def __init__(self, agents: list[Agent], buffer: ReplayBuffer):
        self.agents, self.buffers = stack(agents), buffer.replicate(len(agents))
        self.totals = zero_totals(self.agents, self.buffers)

    def __call__(self, num_updates: int):
        self.agents, self.totals = train(self.agents, self.buffers, num_updates, self.totals)
        return self.totals


def seconds(function: Callable) -> float:
    """Returns how long `function` and the device work it returns take."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def product_rate(repeats: int = 5) -> float:
    """Returns the median FLOP/s of a 4096×512 · 512×512 float32 product.

    Eight in a row, so that on an accelerator their dispatch does not count.
    """
    x, w = jnp.ones((4096, 512)), jnp.full((512, 512), 1 / 512)
    jax.block_until_ready(_products(x, w))
    took = [seconds(functools.partial(_products, x, w)) for _ in range(repeats)]
    return 8 * 2 * 4096 * 512 * 512 / np.median(took)


@jax.jit
def _products(x, w):
    return jax.lax.fori_loop(0, 8, lambda _, x: x @ w, x)


def measure(runners: dict[str, Callable], repeats: int) -> tuple[dict[str, float], float]:
    """Times each runner in turn, so that a noisy minute falls on all of them alike.

    Args:
        runners: each makes the number of updates it is given.
        repeats: blocks of each, of which the median counts.

    Returns:
        Seconds per update of each runner, and the rate of the product in between (FLOP/s).
    """
    blocks = {}
    for name, run in runners.items():
        jax.block_until_ready(run(1))
        once = seconds(functools.partial(run, 1))
        blocks[name] = int(np.clip(1.0 / once, 3, 1000))
    times, rates = {name: [] for name in runners}, []
    for _ in range(repeats):
        for name, run in runners.items():
            rates.append(product_rate())
            times[name].append(seconds(functools.partial(run, blocks[name])) / blocks[name])
    rates.append(product_rate())
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return medians, float(np.median(rates))


def machine() -> dict:
    """Describes where and with what the numbers were made."""
    device = jax.devices()[0]
    found = versions()
    return {
        'device': device.device_kind,
        'platform': device.platform,
        'devices': jax.device_count(),
        'cpu': f'{os.cpu_count()} x {platform.machine()}',
        'python': platform.python_version(),
        'jax': found['jax'],
        'commit': found['commit'],
        'date': time.strftime('%Y-%m-%d'),
    }


def table(rows: list[dict]) -> str:
    """Returns a Markdown table with the columns of the first row."""
    cells = [[_cell(x) for x in row.values()] for row in rows]
    lines = [list(rows[0]), ['---'] * len(rows[0]), *cells]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(x) -> str:
    if isinstance(x, float):
        return f'{x:.3g}' if abs(x) < 1000 else f'{x:,.0f}'
    return str(x)


def print_table(rows: list[dict]) -> None:
    """Prints `table(rows)`."""
    print(table(rows), flush=True)


def save(path: str | None, content: dict) -> None:
    """Writes results as JSON, if a path is given."""
    if path:
        pathlib.Path(path).write_text(json.dumps(machine() | content, indent=2) + '\n')


def run(main: Callable) -> None:
    """Runs a benchmark as a program with `--json`."""
    flags.DEFINE_string('json', None, 'File for the results.')

    def quiet(argv):
        logging.set_verbosity(logging.WARNING)
        return main(argv)

    app.run(quiet)
