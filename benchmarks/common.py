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
from experiments.methods import METHODS, run_config
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


def new_agent(method: str, seed: int = 0, **changes) -> Agent:
    """Makes an agent with the paper's settings for cube-double, except for `changes`."""
    spec = Spec.of(make_rows(episodes=1))
    return make_agent(describe(run_config(method, CUBE_DOUBLE, changes), spec), seed)


def make_rows(
    observation_dim: int = OBSERVATION_DIM,
    action_dim: int = ACTION_DIM,
    episodes: int = EPISODES,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Makes a data set of noise, by default a small one."""
    rng = np.random.default_rng(seed)
    num = episodes * EPISODE_ROWS
    return {
        'observations': rng.standard_normal((num, observation_dim), np.float32),
        'actions': rng.uniform(-1, 1, (num, action_dim)).astype(np.float32),
        'rewards': rng.integers(-2, 1, num).astype(np.float32),
        'masks': np.ones(num, np.float32),
        'terminals': np.arange(num) % EPISODE_ROWS == EPISODE_ROWS - 1,
    }


def begin(
    config: RunConfig, rows: Rows, devices: Sequence[jax.Device] = ()
) -> tuple[RunState, list[Rows]]:
    """Returns the initial state of a run and the data.

    Args:
        config: of the run.
        rows: the data set.
        devices: for the seeds; by default those that a run uses.

    Returns:
        The state, and the data set on each device in use.
    """
    devices = list(devices) or jax.local_devices()
    data = [jax.device_put(rows, device) for device in devices[: config.num_seeds]]
    description = describe(config, Spec.of(rows.fields))
    return states.create(description, config.seeds, data, config.buffer_size), data


class Fused:
    """Blocks of updates of one or more seeds, sampled on the device: one dispatch per device."""

    def __init__(self, seeds: Sequence[SeedState], data: Sequence[Rows]):
        """Takes the `seeds` of a state (buffers are donated) and the data on their devices."""
        self.seeds, self.data = list(seeds), list(data)

    def __call__(self, num_updates: int) -> list[Totals]:
        for i, (part, data) in enumerate(zip(self.seeds, self.data, strict=True)):
            group = group_size(data.device, OFFLINE_GROUP)
            agents, totals = update_many(
                part.agents, part.replays, data, num_updates, part.totals, group
            )
            self.seeds[i] = SeedState(agents, part.replays, totals)
        return [part.totals for part in self.seeds]


def fused(config: RunConfig, rows: Rows, online: bool = False) -> Fused:
    """Returns fused updates of all seeds of a run, in the offline or the online phase."""
    state, data = begin(config, rows)
    if not online:
        return Fused(state.seeds, data)
    seeds = []
    for part, on_device in zip(state.seeds, data, strict=True):
        agents = part.agents.replace(online=True)
        totals = zero_totals(agents, part.replays, on_device)  # the logged metrics may differ
        seeds.append(SeedState(agents, part.replays, totals))
    return Fused(seeds, data)


def seconds(function: Callable[[], Any]) -> float:
    """Returns the seconds that `function` and the device work it returns take."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def product_rate(repeats: int = 5) -> float:
    """Returns the median FLOP/s of a 4096×512 · 512×512 float32 product.

    Eight in a row, to hide their dispatch on an accelerator.
    """
    x, w = jnp.ones((4096, 512)), jnp.full((512, 512), 1 / 512)
    jax.block_until_ready(_products(x, w))
    took = [seconds(functools.partial(_products, x, w)) for _ in range(repeats)]
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
    blocks: dict[Any, int] = {}
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


def machine() -> dict[str, Any]:
    """Describes the machine, the versions and the commit."""
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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table with the columns of the first row."""
    cells = [[_cell(x) for x in row.values()] for row in rows]
    lines = [list(rows[0]), ['---'] * len(rows[0]), *cells]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(x: Any) -> str:
    if isinstance(x, float):
        return f'{x:.3g}' if abs(x) < 1000 else f'{x:,.0f}'
    return str(x)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints `table(rows)`."""
    print(table(rows), flush=True)


def save(path: str | None, content: dict[str, Any]) -> None:
    """Writes results as JSON, if a path is given."""
    if path:
        pathlib.Path(path).write_text(json.dumps(machine() | content, indent=2) + '\n', 'utf-8')


def results_of(
    module: str, arguments: Sequence[str] = (), checkout: str | pathlib.Path | None = None
) -> dict[str, Any]:
    """Runs a benchmark in its own process and returns its results.

    Args:
        module: name of the benchmark.
        arguments: its flags.
        checkout: folder of the project to run it in; by default the working directory.

    Raises:
        subprocess.CalledProcessError: it failed; it has printed its own message.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory).absolute() / 'results.json'
        command = [sys.executable, '-m', f'benchmarks.{module}', f'--json={path}', *arguments]
        subprocess.run(command, check=True, cwd=checkout)
        return json.loads(path.read_text('utf-8'))


def check_methods(methods: Sequence[str]) -> None:
    """Raises UsageError for an unknown method in `--methods`."""
    if unknown := set(methods) - set(METHODS):
        raise app.UsageError(f'--methods: no {", ".join(unknown)}; there are {", ".join(METHODS)}')


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a benchmark as a program with `--json`."""
    flags.DEFINE_string('json', None, 'File for the results.')

    def quiet(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        main(argv)

    app.run(quiet)
