"""Progress of the runs of a plan, read from their folders."""

import dataclasses
from collections.abc import Iterable

import pandas as pd

from experiments.plans import Plan, PlannedRun
from reports import runs
from training import RunConfig, is_complete, why_stale
from training.logs import is_at_work, newest_copy, read_status

ORDER = ('done', 'running', 'interrupted', 'failed', 'changed', 'planned')


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        status: 'done', 'running', 'interrupted' (also if it was killed, or done with fewer steps),
            'failed', 'planned', or 'changed' (its code or data is not what it was made with).
        part: fraction of its steps that are done.
        error: why it failed, or what has changed.
    """

    status: str
    part: float = 0.0
    error: str = ''


def progress_of(config: RunConfig) -> Progress:
    """Returns the progress of a run."""
    folder = newest_copy(config.directory)
    status = read_status(folder)
    if not status:
        return Progress('running' if is_at_work(folder) else 'planned')
    steps = {'offline': 0, 'online': config.offline_steps}
    done = steps.get(status.get('phase', ''), 0) + status.get('step', 0)
    part = min(1.0, done / (config.offline_steps + config.online_steps))
    complete = is_complete(config, status)
    if not complete and is_at_work(folder):
        return Progress('running', part)
    if problem := why_stale(config, folder):
        return Progress('changed', part, problem)
    if complete:
        return Progress('done', part)
    if status['status'] == 'failed':
        return Progress('failed', part, status['error'])
    return Progress('interrupted', part)


def counts(planned: Iterable[PlannedRun]) -> str:
    """Returns the number of runs of each status in words, such as '2 done, 1 planned'."""
    found = [progress_of(run.config).status for run in planned]
    return ', '.join(f'{found.count(name)} {name}' for name in ORDER if name in found)


def results_of(planned: Iterable[PlannedRun]) -> pd.DataFrame:
    """Returns the results of runs so far."""
    parts = [
        runs.read_run(newest_copy(run.config.directory), method=run.name, task=run.task)
        for run in planned
    ]
    return pd.concat(parts, ignore_index=True)


def is_gathered(run: PlannedRun, results: pd.DataFrame) -> bool:
    """Whether the results contain the end of a run for all its seeds."""
    config = run.config
    phase = 'online' if config.online_steps else 'offline'
    ends = results[(results['identity'] == config.identity) & (results['phase'] == phase)]
    ends = ends[ends['step'] == config.steps[phase]]
    return {*ends['seed']} >= {*config.seeds}


def without_gathered(plan: Plan, results: pd.DataFrame) -> Plan:
    """Returns a plan without the runs that the results contain whole."""
    left = tuple(run for run in plan.cells if not is_gathered(run, results))
    return dataclasses.replace(plan, cells=left)
