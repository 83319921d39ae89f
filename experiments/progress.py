"""How far the runs of a plan are, and how long they take: read from the folders they leave."""

import dataclasses
import json
import math
import os
import pathlib
import re
import socket
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from experiments.plans import Cell, Plan
from reports import runs
from training import RunConfig, code_problem, is_complete
from training.logs import is_at_work, newest_copy, read_status, write_json

RATES = pathlib.Path('~/.cache/dfp/rates.json')
OBSERVATION = 60  # numbers, about as many as most tasks have
FLOAT = 4  # bytes
ROW = FLOAT * (OBSERVATION + 8)  # bytes of a transition, about
SIMULATOR = 0.5  # GiB of a process; on cubes it was 0.46
ORDER = ('done', 'running', 'interrupted', 'failed', 'changed', 'planned')


@dataclasses.dataclass(frozen=True)
class Progress:
    """Of a run.

    Attributes:
        status: 'done', 'running', 'interrupted' (also: killed, or done with fewer steps), 'failed',
            'planned', or 'changed': the code has changed since.
        part: of its steps that are done, 0 to 1.
        error: why it failed, or what has changed.
    """

    status: str
    part: float = 0.0
    error: str = ''


def look(config: RunConfig) -> Progress:
    """Returns how far a run is."""
    folder = newest_copy(config.directory)
    status = read_status(folder)
    if not status:
        return Progress('running' if is_at_work(folder) else 'planned')
    steps = {'offline': 0, 'online': config.offline_steps}
    done = steps.get(status.get('phase', ''), 0) + status.get('step', 0)
    part = min(1.0, done / (config.offline_steps + config.online_steps))
    name, error = status['status'], str(status.get('error') or '')
    complete = is_complete(config, status)
    if not complete and is_at_work(folder):
        name, error = 'running', ''
    elif problem := code_problem(config, folder):
        name, error = 'changed', problem
    elif complete:
        name, error = 'done', ''
    elif name in ('running', 'done'):  # it was killed, or had fewer steps
        name = 'interrupted'
    return Progress(name, part, error)


# ---- rates --------------------------------------------------------------------------------------


def rate_key(config: RunConfig) -> str:
    """Names what decides how long a run takes, on a machine."""
    agent = json.dumps(config.agent, sort_keys=True)
    more = (config.env_name, config.num_seeds, config.horizon_length, config.utd_ratio)
    return json.dumps([*more, config.overlap, agent])


def measure(config: RunConfig) -> dict[str, float] | None:
    """Returns the seconds that a step of each phase of a run took, evaluations included.

    A phase begins with its evaluation at step 0, if it has one: collecting data and the first
    compilation were before that.
    """
    rates, before = {}, 0.0
    table = runs.read_run(newest_copy(config.directory))
    for phase, rows in table[table['metric'] == 'seconds'].groupby('phase'):
        first, last = rows.iloc[0], rows.iloc[-1]
        if first['step'] == 0:
            before = first['value']
        if last['step']:
            rates[phase] = (last['value'] - before) / last['step']
        before = last['value']
    return rates or None


def remember(configs: Iterable[RunConfig], path: pathlib.Path = RATES) -> None:
    """Keeps the rates of finished runs that this host made; others, as of Ray, are left out."""
    path = path.expanduser()
    known = read_rates(path)
    mine = known.setdefault(host(), {})
    for config in configs:
        status = read_status(newest_copy(config.directory))
        is_ours = (status.get('status'), status.get('host')) == ('done', host())
        if is_ours and (rates := measure(config)):
            mine[rate_key(config)] = rates
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, known)


def read_rates(path: pathlib.Path = RATES) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the rates of each host, by `rate_key`."""
    try:
        found = json.loads(path.expanduser().read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def estimate(config: RunConfig, rates: Mapping[str, Mapping[str, float]]) -> float | None:
    """Returns the seconds that a whole run takes, by the rates of one host; None if unknown.

    If this run's were never measured, those of the same agent on another task stand in.
    """
    wanted = json.loads(rate_key(config))
    found = rates.get(rate_key(config))
    if found is None:
        same_agent = [r for key, r in rates.items() if json.loads(key)[1:] == wanted[1:]]
        found = same_agent[-1] if same_agent else None
    if found is None:
        return None
    steps = config.steps
    if any(steps[phase] and phase not in found for phase in steps):
        return None
    return sum(found[phase] * count for phase, count in steps.items() if count)


# ---- sizes --------------------------------------------------------------------------------------


def host() -> str:
    """Names this machine."""
    return socket.gethostname()


def cores_wanted(config: RunConfig) -> int:
    """The simulators that play at a time, in a process each, and the one that learns."""
    return config.num_seeds + 1


def free_gib() -> float:
    """Returns the memory that is free on this machine, in GiB; infinity where nothing tells."""
    try:
        text = pathlib.Path('/proc/meminfo').read_text('utf-8')
    except OSError:
        return math.inf
    found = re.search(r'MemAvailable: +(\d+) kB', text)
    return int(found[1]) / 2**20 if found else math.inf


def summary(cells: Iterable[Cell]) -> dict[str, Any]:
    """Returns the number of runs of each status."""
    found = [look(cell.config).status for cell in cells]
    return {status: found.count(status) for status in ORDER if status in found}


def counts(cells: Iterable[Cell]) -> str:
    """Returns the same in words, such as '2 done, 1 planned'."""
    return ', '.join(f'{n} {status}' for status, n in summary(cells).items())


def available_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA numbers them, without starting JAX."""
    if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return [name for name in visible.split(',') if name not in ('', '-1')]
    return sorted(path.name[6:] for path in pathlib.Path('/dev').glob('nvidia[0-9]*'))


def results_of(cells: Iterable[Cell]) -> pd.DataFrame:
    """Returns the results that runs have so far."""
    parts = [
        runs.read_run(newest_copy(cell.config.directory), method=cell.name, task=cell.task)
        for cell in cells
    ]
    return pd.concat(parts, ignore_index=True)


def with_gathered(results: pd.DataFrame, path: pathlib.Path) -> pd.DataFrame:
    """Returns results and those in a file that were gathered of other seeds, tasks or methods."""
    both = pd.concat([runs.read_results(path), results], ignore_index=True)
    return runs.newest(both, runs.SEED)


def is_gathered(cell: Cell, results: pd.DataFrame) -> bool:
    """Tells whether results have the end of all seeds of a run."""
    config = cell.config
    phase = 'online' if config.online_steps else 'offline'
    ends = results[(results['identity'] == config.identity) & (results['phase'] == phase)]
    ends = ends[ends['step'] == config.steps[phase]]
    return {*ends['seed']} >= {*config.seeds}


def without_gathered(plan: Plan, results: pd.DataFrame) -> tuple[int, Plan]:
    """Returns how many runs are whole in results, and the plan of the others."""
    left = tuple(cell for cell in plan.cells if not is_gathered(cell, results))
    others = dataclasses.replace(plan, cells=left)
    return len(plan.runs) - len(others.runs), others


def disk_gib(config: RunConfig) -> float:
    """Roughly estimates what the checkpoints of a run take, in GiB.

    A checkpoint has, of each seed, the parameters with Adam's moments and a slow copy of them, and
    the rows that it played online.
    """
    per_seed = 4 * FLOAT * _parameters(config) + _played(config)
    return config.keep_checkpoints * config.num_seeds * per_seed / 2**30


def gpu_gib(config: RunConfig) -> float:
    """Roughly estimates the memory of a GPU that a run takes, in GiB.

    It has the data set (a million rows, as most public ones); of each seed the parameters with
    Adam's moments, gradients and slow copies, the rows that it played online, and about ten layers'
    outputs while the critic ranks proposals; and 1 GiB for CUDA and the programs. An offline run of
    DFP took 0.76 GiB where this says 0.8 without CUDA and with as little data (five seeds, paper
    size, 400,000 rows; one H200).
    """
    agent = config.agent
    num = max(agent['num_samples'], agent.get('num_candidates', 0))
    outputs = 10 * agent['batch_size'] * num * max(agent['critic_hidden_dims'])
    per_seed = FLOAT * (6 * _parameters(config) + outputs) + _played(config)
    return 1 + (1e6 * ROW + config.num_seeds * per_seed) / 2**30


def ram_gib(config: RunConfig) -> float:
    """Roughly estimates the memory that a run takes without a GPU, in GiB.

    It has what `gpu_gib` says, and a process for each simulator that plays or evaluates. DFP at the
    small scale, three seeds on a cube, took 1.5 GiB and six times 0.46, where this says 4.3.
    """
    evaluating = max(1, min(config.eval_envs // config.num_seeds, config.eval_episodes))
    return gpu_gib(config) + SIMULATOR * config.num_seeds * (1 + evaluating)


def needs(cells: Iterable[Cell]) -> str:
    """Says in words what runs take of a machine."""
    configs = [cell.config for cell in cells]
    return (
        f'A run has {cores_wanted(configs[0])} busy processes while it plays online. It takes up '
        f'to about {max(map(ram_gib, configs)):.1f} GiB of memory, '
        f'{max(map(gpu_gib, configs)):.1f} GiB of it on a GPU if there is one. '
        f'All checkpoints take about {sum(map(disk_gib, configs)):.1f} GiB.'
    )


def _parameters(config: RunConfig) -> int:
    """Returns the number of a seed's parameters, about."""
    agent, inputs = config.agent, OBSERVATION + 7 * config.horizon_length

    def of_network(hidden: Iterable[int]) -> int:
        return sum(a * b for a, b in pairwise([inputs, *hidden, inputs]))

    critics = agent['num_qs'] * of_network(agent['critic_hidden_dims'])
    return of_network(agent['actor_hidden_dims']) + critics


def _played(config: RunConfig) -> int:
    """Returns the bytes of the rows that a seed plays online, about."""
    return ROW * min(config.online_steps, config.buffer_size)
