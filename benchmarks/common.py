"""Shared by the benchmarks: agents, data, clocks, and a description of the machine."""

import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from agents import make_agent
from agents.base import Agent
from experiments.command_line import one_line_errors
from experiments.methods import run_config
from training import RunConfig
from training import state as states
from training.logs import versions
from training.loop import OFFLINE_GROUP
from training.run import describe
from training.state import RunState, SeedState
from training.updates import Totals, group_size, update_many, zero_totals
from utils.replay import Rows
from utils.spec import Spec

CUBE_DOUBLE = 'cube-double-play-singletask-task2-v0'
OBSERVATION_DIM, ACTION_DIM = 37, 5  # of cube-double
EPISODES, EPISODE_ROWS = 200, 1001
SMALL = {'batch_size': 64, 'actor_hidden_dims': (128, 128), 'critic_hidden_dims': (128, 128)}
Tables = dict[str, list[dict[str, Any]]]  # rows by the table's name


def new_agent(method: str, **changes) -> Agent:
    """Makes an agent with the paper's settings for cube-double, except for `changes`."""
    spec = Spec.of(make_rows(episodes=1))
    return make_agent(describe(run_config(method, CUBE_DOUBLE, changes), spec), seed=0)


def make_rows(
    observation_dim: int = OBSERVATION_DIM, action_dim: int = ACTION_DIM, episodes: int = EPISODES
) -> dict[str, np.ndarray]:
    """Makes a data set of noise, by default a small one."""
    rng = np.random.default_rng(0)
    num = episodes * EPISODE_ROWS
    return {
        'observations': rng.standard_normal((num, observation_dim), np.float32),
        'actions': rng.uniform(-1, 1, (num, action_dim)).astype(np.float32),
        'rewards': rng.integers(-2, 1, num).astype(np.float32),
        'masks': np.ones(num, np.float32),
        'terminals': np.arange(num) % EPISODE_ROWS == EPISODE_ROWS - 1,
    }


def begin(config: RunConfig, rows: Rows) -> tuple[RunState, list[Rows]]:
    """Returns the initial state of a run, and the data set on each device in use."""
    data = [jax.device_put(rows, device) for device in jax.local_devices()[: config.num_seeds]]
    description = describe(config, Spec.of(rows.fields))
    return states.create(description, config.seeds, data, config.buffer_size), data


class Fused:
    """Blocks of updates of all seeds of a run, sampled on the device: one dispatch per device."""

    def __init__(self, config: RunConfig, rows: Rows, online: bool = False):
        state, self.data = begin(config, rows)
        self.seeds = list(state.seeds)
        if online:
            for i, (part, data) in enumerate(zip(self.seeds, self.data, strict=True)):
                agents = part.agents.replace(online=True)
                totals = zero_totals(agents, part.replays, data)  # the logged metrics may differ
                self.seeds[i] = part.replace(agents=agents, totals=totals)

    def __call__(self, num_updates: int) -> list[Totals]:
        for i, (part, data) in enumerate(zip(self.seeds, self.data, strict=True)):
            group = group_size(data.device, OFFLINE_GROUP)
            agents, totals = update_many(
                part.agents, part.replays, data, num_updates, part.totals, group
            )
            self.seeds[i] = SeedState(agents, part.replays, totals)
        return [part.totals for part in self.seeds]


def seconds(function: Callable, *arguments: Any) -> float:
    """Returns the seconds that a call and the device work that it returns take."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def product_rate(repeats: int = 5) -> float:
    """Returns the median FLOP/s of a 4096×512 · 512×512 float32 product.

    Eight in a row, to hide their dispatch on an accelerator.
    """
    x, w = jnp.ones((4096, 512)), jnp.full((512, 512), 1 / 512)
    jax.block_until_ready(_products(x, w))
    took = [seconds(_products, x, w) for _ in range(repeats)]
    return 8 * 2 * 4096 * 512 * 512 / float(np.median(took))


@jax.jit
def _products(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 8, lambda _, x: x @ w, x)


def measure(
    runners: dict[Any, Callable[[int], Any]], repeats: int
) -> tuple[dict[Any, float], float]:
    """Times each runner in turn, so that noise hits all of them alike.

    Args:
        runners: each makes the given number of updates.
        repeats: blocks of each; the median is reported.

    Returns:
        Seconds per update of each runner, and the rate of the product in between (FLOP/s).
    """
    blocks = {}
    for name, run in runners.items():
        jax.block_until_ready(run(1))
        blocks[name] = int(np.clip(1.0 / seconds(run, 1), 3, 1000))
    times, rates = {name: [] for name in runners}, []
    for _ in range(repeats):
        for name, run in runners.items():
            rates.append(product_rate())
            times[name].append(seconds(run, blocks[name]) / blocks[name])
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return medians, float(np.median(rates))


def machine() -> dict[str, Any]:
    """Describes the machine, the versions and the commit."""
    device, found = jax.devices()[0], versions()
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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table with the columns of the first row."""
    cells = [[_cell(x) for x in row.values()] for row in rows]
    lines = [list(rows[0]), ['---'] * len(rows[0]), *cells]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(x: Any) -> str:
    if isinstance(x, float):
        return f'{x:.3g}' if abs(x) < 1000 else f'{x:,.0f}'
    return str(x)


def results_of(
    module: str, arguments: Sequence[str] = (), checkout: str | pathlib.Path | None = None
) -> dict[str, Any]:
    """Runs a benchmark in its own process; returns its tables, and what `machine` says there.

    Args:
        module: name of the benchmark.
        arguments: its flags.
        checkout: of the project, in which it runs; default: this one.

    Raises:
        subprocess.CalledProcessError: it failed; it has printed its own message.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory).absolute() / 'results.json'
        command = [sys.executable, '-m', f'benchmarks.{module}', f'--json={path}', *arguments]
        subprocess.run(command, check=True, cwd=checkout)
        return json.loads(path.read_text('utf-8'))


def run(main: Callable[[list[str]], Tables]) -> None:
    """Runs a benchmark as a program: prints its tables, and writes them to `--json`."""
    flags.DEFINE_string('json', None, 'File for the results.')
    with one_line_errors():
        app.run(functools.partial(_measure, main))


def _measure(main: Callable[[list[str]], Tables], argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    tables = main(argv)
    for rows in tables.values():
        print(f'\n{table(rows)}', flush=True)
    if flags.FLAGS.json:
        text = json.dumps(machine() | tables, indent=2) + '\n'
        pathlib.Path(flags.FLAGS.json).write_text(text, 'utf-8')
