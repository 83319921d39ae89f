"""Progress of the runs of a plan, read from their folders."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import pandas as pd

from experiments.plans import Cell, Plan
from reports import runs
from training import RunConfig, code_problem, is_complete
from training.logs import is_at_work, newest_copy, read_status

ORDER = ('done', 'running', 'interrupted', 'failed', 'changed', 'planned')


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        status: 'done', 'running', 'interrupted' (also if it was killed, or done with fewer steps),
            'failed', 'planned', or 'changed' (the code has changed since it started).
        part: fraction of its steps that are done.
        error: why it failed, or what has changed.
    """

    status: str
    part: float = 0.0
    error: str = ''


def look(config: RunConfig) -> Progress:
    """Returns the progress of a run."""
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


def summary(cells: Iterable[Cell]) -> dict[str, Any]:
    """Returns the number of runs of each status."""
    found = [look(cell.config).status for cell in cells]
    return {status: found.count(status) for status in ORDER if status in found}


def counts(cells: Iterable[Cell]) -> str:
    """Returns `summary` in words, such as '2 done, 1 planned'."""
    return ', '.join(f'{n} {status}' for status, n in summary(cells).items())


def available_gpus() -> list[str]:
    """Returns CUDA's numbers of the GPUs that this process may use, without starting JAX."""
    if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return [name for name in visible.split(',') if name not in ('', '-1')]
    return sorted(path.name[6:] for path in pathlib.Path('/dev').glob('nvidia[0-9]*'))


def results_of(cells: Iterable[Cell]) -> pd.DataFrame:
    """Returns the results of runs so far."""
    parts = [
        runs.read_run(newest_copy(cell.config.directory), method=cell.name, task=cell.task)
        for cell in cells
    ]
    return pd.concat(parts, ignore_index=True)


def with_gathered(results: pd.DataFrame, path: pathlib.Path) -> pd.DataFrame:
    """Returns the results, and those in a file of other seeds, tasks or methods."""
    both = pd.concat([runs.read_results(path), results], ignore_index=True)
    return runs.newest(both, runs.SEED)


def is_gathered(cell: Cell, results: pd.DataFrame) -> bool:
    """Whether the results contain the end of a run for all its seeds."""
    config = cell.config
    phase = 'online' if config.online_steps else 'offline'
    ends = results[(results['identity'] == config.identity) & (results['phase'] == phase)]
    ends = ends[ends['step'] == config.steps[phase]]
    return {*ends['seed']} >= {*config.seeds}


def without_gathered(plan: Plan, results: pd.DataFrame) -> tuple[int, Plan]:
    """Returns the number of runs that the results contain whole, and a plan of the others."""
    left = tuple(cell for cell in plan.cells if not is_gathered(cell, results))
    others = dataclasses.replace(plan, cells=left)
    return len(plan.runs) - len(others.runs), others
