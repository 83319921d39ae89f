"""The report of a plan: tables, curves, aggregates and a page, from the results that are there."""

import csv
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from absl.flags import FlagValues

from experiments.methods import method_settings
from experiments.plans import Cell, Plan
from reports import aggregates, page, panels, tables
from reports.panels import Curve
from reports.results import Seed, by_seed
from reports.tables import Grid, Markup, Number, Published, Table
from training import RunConfig

PAPER = pathlib.Path(__file__).parent / 'paper'
CONTRADICTIONS = (
    'The paper contradicts itself in two places: table 6 gives DFP and DFP w/o top-K 77.6 (square) '
    'and 25.8 (can) at the end of the offline phase, its figures 1 and 4 give 25.8 and 75.6. So '
    'these are not judged.'
)
SMALL = (
    'These runs are small: other tasks, networks, batches and numbers of steps than in the paper. '
    'Compare methods with each other, not with published numbers.'
)

Found = Mapping[Cell, Sequence[Seed]]  # the seeds of each cell that there are


def final(seed: Seed, phase: str, config: RunConfig, last: int = 1) -> float | None:
    """Returns what a seed came to at the end of a phase, or the mean of its `last` evaluations.

    The one at step 0, before the phase, is none of them. None if the phase is not complete.
    """
    steps = {'offline': config.offline_steps, 'online': config.online_steps}[phase]
    points = {step: success for step, success in getattr(seed, phase).items() if step}
    if steps not in points:
        return None
    return float(np.mean([points[step] for step in sorted(points)[-last:]]))


def ends_of(cell: Cell, seeds: Sequence[Seed], phase: str, last: int = 1) -> tuple[float, ...]:
    """Returns what the seeds of a cell came to, see `final`; of complete phases alone."""
    values = [final(seed, phase, cell.config, last) for seed in seeds]
    return tuple(value for value in values if value is not None)


def steps_to(seed: Seed, success: float = 95.0) -> float | None:
    """Returns the first online step at which a seed reached a success; None if it never did."""
    reached = [step for step in sorted(seed.online) if seed.online[step] >= success]
    return float(reached[0]) if reached else None


def seeds_of(plan: Plan, rows: Sequence[Mapping[str, str]]) -> dict[Cell, list[Seed]]:
    """Returns the seeds of each cell that there are, of runs with its settings alone.

    Args:
        plan: of the cells.
        rows: of results; later ones of the same key count.
    """
    seeds = by_seed(rows)
    return {
        cell: [seed for seed in seeds.get(_key(cell), ()) if seed.seed in cell.config.seeds]
        for cell in plan.cells
    }


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.name, cell.task, cell.config.identity


def make_table(plan: Plan, seeds: Found, last: int = 1) -> Table:
    """Returns the table of a plan.

    Args:
        plan: of it.
        seeds: of each cell.
        last: evaluations that an entry is the mean of; the paper's are of one.
    """
    published = read_published(plan) if plan.scale == 'paper' and last == 1 else {}
    named = lines_of(plan)
    if len(plan.tasks) > 1:
        named |= {'average': plan.tasks}
    phases = {}
    for phase in plan.phases:
        entries: dict[tuple[str, str], tuple[float, ...]] = {}
        planned = {}
        for cell in plan.cells:
            entries[cell.row, cell.task] = ends_of(cell, seeds[cell], phase, last)
            planned[cell.row, cell.task] = cell.config.num_seeds
        lines = {}
        for line, tasks in named.items():
            lines[line] = {
                row: _entry(
                    [entries[row, task] for task in tasks],
                    max(planned[row, task] for task in tasks),
                    published.get((phase, row, line)),
                )
                for row in plan.rows
            }
        phases[phase] = lines
    return Table(plan.rows, phases)


def lines_of(plan: Plan) -> dict[str, list[str]]:
    """Returns the tasks of each line of a plan's table, but for the average of all."""
    return dict(plan.groups) if plan.by_group else {task: [task] for task in plan.tasks}


def _entry(values: list[tuple[float, ...]], planned: int, published: Published | None) -> Number:
    """Returns the mean over tasks, seed by seed, of the seeds that all tasks have."""
    complete = min(len(each) for each in values)
    if not complete:
        return Number((), planned, published)
    means = np.mean([each[:complete] for each in values], axis=0)
    return Number(tuple(means.tolist()), planned, published)


def read_published(plan: Plan) -> dict[tuple[str, str, str], Published]:
    """Returns what the paper's table has, by phase, row and line."""
    found = {}
    with (PAPER / 'tables.csv').open(newline='') as file:
        for row in csv.DictReader(file):
            if row['table'] == plan.table and row['mean']:
                name = _same(row['setting'] or row['method'])
                std = float(row['std']) if row['std'] else None
                entry = Published(float(row['mean']), std, row['note'])
                found[row['phase'], name, row['task']] = entry
    return found


def _same(setting: str) -> str:
    """'lambda=1.0' is the row that is called 'lambda=1'."""
    return setting.removesuffix('.0')


def scores_of(plan: Plan, seeds: Found) -> dict[str, aggregates.Scores]:
    """Returns the scores of rows at the end of the last phase, see `aggregates.shared_scores`."""
    ends: dict[str, dict[str, np.ndarray]] = {}
    for cell in plan.cells:
        if values := ends_of(cell, seeds[cell], plan.phases[-1]):
            ends.setdefault(cell.task, {})[cell.row] = np.array(values)
    return aggregates.shared_scores(plan.rows, ends)


def speeds_of(plan: Plan, seeds: Found) -> dict[str, dict[str, list[float | None]]]:
    """Returns the online steps to 95% success of all seeds, by line and row; see `steps_to`."""
    return {
        line: {
            row: [
                steps_to(seed)
                for cell in plan.cells
                if cell.row == row and cell.task in tasks
                for seed in seeds[cell]
            ]
            for row in plan.rows
        }
        for line, tasks in lines_of(plan).items()
    }


def speed_grid(plan: Plan, speeds: Mapping[str, Mapping[str, list[float | None]]]) -> Grid:
    """Returns the table of online steps to 95% success."""

    def text(steps: list[float | None]) -> str:
        reached = [step for step in steps if step is not None]
        median = f'{np.median(reached):,.0f} ' if reached else ''
        return f'{median}({len(reached)} of {len(steps)})' if steps else ''

    lines = {line: [text(each[row]) for row in plan.rows] for line, each in speeds.items()}
    note = 'The median of the seeds that got there; (2 of 3) says how many did.'
    return Grid('Online steps to 95% success', plan.rows, lines, note)


def curves_of(plan: Plan, seeds: Found) -> dict:
    """Returns the curve of each row on each task that has results: {task: {row: Curve}}.

    Only steps that all seeds have reached are in it.
    """
    found: dict[str, dict[str, Curve]] = {}
    for cell in plan.cells:
        offline = cell.config.offline_steps
        points = [_points(seed, offline) for seed in seeds[cell]]
        if not points:
            continue
        steps = sorted(set.intersection(*map(set, points)))
        if steps:
            values = np.array([[each[step] for each in points] for step in steps])
            curve = Curve(np.array(steps) / 1e6, values, offline / 1e6)
            found.setdefault(cell.task, {})[cell.row] = curve
    return found


def _points(seed: Seed, offline: int) -> dict[int, float]:
    """Success by step of both phases; the end of one is the start of the other."""
    online = {offline + step: success for step, success in seed.online.items()}
    return online | seed.offline


def published_curves() -> dict[tuple[str, str], list[tuple[str, np.ndarray]]]:
    """Returns source and curve [T, 2] (millions of steps, %) by task and method."""
    lines: dict[tuple[str, str, str], list] = {}
    with (PAPER / 'curves.csv').open(newline='') as file:
        for row in csv.DictReader(file):
            key = row['task'], row['method'], row['source']
            lines.setdefault(key, []).append((float(row['step_millions']), float(row['mean'])))
    found: dict[tuple[str, str], list] = {}
    for (task, method, source), points in lines.items():
        found.setdefault((task, method), []).append((source, np.array(points)))
    return found


def how(plan: Plan, rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Returns hours, commits, versions and devices of each row of a plan."""
    found = []
    for row in plan.rows:
        cells = [cell for cell in plan.cells if cell.row == row]
        keys = {_key(cell) for cell in cells}
        mine = [r for r in rows if (r['method'], r['task'], r['identity']) in keys]
        ends: dict[tuple, float] = {}
        for r in mine:
            key = r['task'], r['seed']
            ends[key] = max(ends.get(key, 0.0), float(r['seconds']))
        hours = f'{statistics.median(ends.values()) / 3600:.2f}' if ends else ''
        found.append(
            {
                'method': row,
                'hours of a run, median': hours,
                'commit': ', '.join(sorted({(r['commit'] or '')[:8] for r in mine})),
                'versions': ' or '.join(sorted({r['versions'] for r in mine} - {''})),
                'device': ', '.join(sorted({r['device'] for r in mine})),
            }
        )
    return found


def settings_of(plan: Plan) -> list[dict[str, str]]:
    """Returns the flags of each row and the tasks that share them, flag files and methods read."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in sorted(plan.cells, key=lambda cell: plan.rows.index(cell.row)):
        method = cell.config.method
        usual = method_settings(method, cell.task) if method else {}
        given = [f'--{name}={value}' for name, value in usual.items()]
        given += FlagValues().read_flags_from_files(list(cell.arguments))
        text = ' '.join(flag for flag in given if not flag.startswith('--env_name='))
        found.setdefault((cell.row, text), []).append(panels.short(cell.task))
    return [
        {'method': row, 'tasks': ', '.join(tasks), 'flags': text}
        for (row, text), tasks in found.items()
    ]


def write(
    plan: Plan, rows: Sequence[Mapping[str, str]], directory: pathlib.Path, with_published: bool
) -> list[pathlib.Path]:
    """Writes the report; returns its files.

    Args:
        plan: what is reported.
        rows: of results; later ones of the same key count.
        directory: for the files; is made.
        with_published: lays the published curves below ours.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = f'{plan.scale}-table-{plan.table}' if plan.table else f'{plan.scale}-methods'
    seeds = seeds_of(plan, rows)
    final, steady = make_table(plan, seeds), make_table(plan, seeds, last=3)
    speeds = speeds_of(plan, seeds)

    def grids(markup: Markup) -> list[Grid]:
        return [
            *tables.grids(final, 'End of the {} phase, success in %', markup),
            *tables.grids(steady, 'Last three evaluations of the {} phase, mean in %', markup),
            *([speed_grid(plan, speeds)] if 'online' in plan.phases else []),
        ]

    notes = [SMALL] if plan.scale == 'small' else [CONTRADICTIONS]
    head = f'% {plan.title} (packages booktabs and amssymb)\n'
    files = {
        f'{name}.md': '\n'.join(
            [f'# {plan.title}\n', *map(tables.markdown, grids(tables.MARKDOWN)), *notes, '']
        ),
        f'{name}.tex': '\n'.join(
            [head, *map(tables.latex, grids(tables.LATEX)), *map(tables.escaped, notes), '']
        ),
        f'{name}.csv': tables.as_csv(final, steady, speeds),
    }
    paths = []
    for file, content in files.items():
        (directory / file).write_text(content)
        paths.append(directory / file)
    curves = curves_of(plan, seeds)
    figures = {
        'curves': panels.draw(
            plan.tasks, plan.rows, curves, published_curves() if with_published else {}
        )
    }
    if scores := scores_of(plan, seeds):
        figures['aggregate'] = aggregates.draw(plan.rows, scores, plan.phases[-1])
    for kind, figure in figures.items():
        for suffix in ('png', 'pdf'):
            paths.append(directory / f'{name}-{kind}.{suffix}')
            figure.savefig(paths[-1], dpi=150)
        plt.close(figure)
    paths.append(directory / f'{name}.html')
    paths[-1].write_text(
        page.html(
            plan.title, notes, grids(page.MARKUP), page.curves(plan.rows, plan.tasks, curves),
            {'How': how(plan, rows), 'Settings': settings_of(plan)},
        )
    )  # fmt: skip
    return paths
