"""Plans: the runs behind the cells of a table (tables.toml), or any methods on any tasks."""

import dataclasses
import fnmatch
import os
import pathlib
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

from experiments.methods import METHODS, run_config
from experiments.run_flags import parse
from training import RunConfig
from utils.errors import UserError

HERE = pathlib.Path(__file__).absolute().parent
TABLES = tomllib.loads((HERE / 'tables.toml').read_text('utf-8'))
SIZES = ('actor_hidden_dims', 'critic_hidden_dims', 'batch_size')  # not in a run's name


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedRun:
    """The run of all seeds behind a cell of a table: a row on a task.

    Attributes:
        row: name of the row, such as 'K=1'.
        name: the method and its changed settings, such as 'DFP' or 'DFP top_k=1'. Cells with the
            same name and task share a run.
        arguments: of main.py; flag files as seen from the current folder.
        config: the arguments, parsed.
    """

    row: str
    name: str
    arguments: tuple[str, ...]
    config: RunConfig

    @property
    def task(self) -> str:
        return self.config.env_name

    @property
    def label(self) -> str:
        return f'{self.name}, {self.task}'

    @property
    def command(self) -> list[str]:
        """The command of the run, to start in the current folder."""
        program = os.path.relpath(HERE.parent / 'main.py')
        return [os.path.relpath(sys.executable), program, *self.arguments]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a table.

    Attributes:
        scale: 'paper' or 'small'.
        table: its number in the paper; empty for a plan of methods and tasks.
        title: of the table.
        groups: the tasks by group.
        by_group: whether the table has one line per group instead of per task.
        phases: 'offline' and 'online', those whose final numbers it shows.
        cells: of the table, grouped by task.
    """

    scale: str
    table: str
    title: str
    groups: dict[str, list[str]]
    by_group: bool
    phases: tuple[str, ...]
    cells: tuple[PlannedRun, ...]

    @property
    def rows(self) -> list[str]:
        """The names of the rows: methods, or settings of one method."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def runs(self) -> list[PlannedRun]:
        """One cell per run; several cells may share a run."""
        return list({cell.config.directory: cell for cell in self.cells}.values())


def make_plan(
    table: str = '',
    scale: str = 'paper',
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: int | None = None,
    flags: Sequence[str] = (),
) -> Plan:
    """Returns a plan.

    Args:
        table: of the paper; empty for all `methods` on all `tasks`.
        scale: 'paper' or 'small'.
        methods: rows of the table (default: all), or without a table, of methods.toml.
        tasks: by default those of the table.
        seeds: number of seeds of each run, by default the table's, or 5.
        flags: of main.py, for all runs.

    Raises:
        UserError: the table, a row, method or task is unknown, or a setting is invalid.
    """
    if table:
        content = _table(scale, table)
        rows = _chosen(content['rows'], methods, 'methods', f'table {table}')
        groups = {name: TABLES['tasks'][name] for name in content['tasks']}
        known = {task: task for group in groups.values() for task in group}
        kept = _chosen(known, tasks, 'tasks', f'table {table}')
        groups = {name: [t for t in group if t in kept] for name, group in groups.items()}
        groups = {name: group for name, group in groups.items() if group}
    else:
        if not methods or not tasks:
            raise UserError('No table: use --table=1, or --methods=… and --tasks=…')
        _chosen(METHODS, methods, 'methods', 'methods.toml')
        content: dict[str, Any] = {'title': 'Success at the end of each phase'}
        rows = {method: [f'--method={method}'] for method in methods}
        groups = {task: [task] for task in tasks}
    num_seeds = seeds or content.get('seeds', 5)
    cells = [
        _planned(row, row_flags, task, scale, num_seeds, tuple(flags))
        for group in groups.values()
        for task in group
        for row, row_flags in rows.items()
    ]
    phases = tuple(content.get('phases', ('offline', 'online')))
    by_group = content.get('by_group', False)
    return Plan(scale, table, content['title'], groups, by_group, phases, tuple(cells))


def _table(scale: str, table: str) -> dict[str, Any]:
    numbers = [name for name in TABLES[scale] if name != 'flags']
    if table not in numbers:
        raise UserError(f'--table={table}: not at --scale={scale}; use one of {", ".join(numbers)}')
    return TABLES['paper'][table] | TABLES[scale][table]


def _chosen(known: dict[str, Any], names: Sequence[str], flag: str, where: str) -> dict[str, Any]:
    """Returns the entries of `known` in `names`, in their order there; all if `names` is empty."""
    for name in names:
        if name not in known:
            raise UserError(f'--{flag}={name}: not in {where}; use one of {", ".join(known)}')
    return {name: value for name, value in known.items() if not names or name in names}


def _planned(
    row: str, row_flags: list[str], task: str, scale: str, seeds: int, flags: tuple[str, ...]
) -> PlannedRun:
    patterns = TABLES[scale]['flags']
    matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(task, pattern)]
    if not matching:
        raise UserError(f'--tasks={task}: not at --scale={scale}; it has {", ".join(patterns)}')
    folder = os.path.relpath(HERE)
    of_scale = [flag.replace('=experiments/', f'={folder}/') for flag in patterns[matching[0]]]
    arguments = (*of_scale, f'--env_name={task}', f'--num_seeds={seeds}', *row_flags, *flags)
    config = parse(['main.py', *arguments])
    return PlannedRun(row, _name(config), arguments, config)


def _name(config: RunConfig) -> str:
    """Returns the method and its changed settings, except sizes."""
    if config.method is None:
        return config.label
    usual = run_config(config.method, config.env_name).agent
    differing = [
        f'{name}={value}'
        for name, value in config.agent.items()
        if value != usual.get(name) and name not in SIZES
    ]
    return ' '.join([config.method, *differing])
