"""The report of a plan: tables, curves, aggregates and a page from the results so far."""

import io
import itertools
import pathlib

import pandas as pd
from absl.flags import FlagValues
from matplotlib.figure import Figure

from experiments.methods import method_settings
from experiments.plans import Plan
from reports import aggregates, curves, page, runs, tables
from reports.tables import Grid, Markup

PAPER = pathlib.Path(__file__).parent / 'paper'
CONTRADICTIONS = (
    'The paper contradicts itself in two places: at the end of the offline phase, table 6 gives '
    'DFP and DFP w/o top-K 77.6 (square) and 25.8 (can), figures 1 and 4 give 25.8 and 75.6. We do '
    'not judge these cells.'
)
SMALL = (
    'These runs are small: tasks, networks, batches and numbers of steps differ from the paper. '
    'Compare methods with each other, not with published numbers.'
)
PUBLISHED = (
    'Published curves differ in more than the method: the DFP paper has 5 seeds, two critics and '
    'one setting for all cubes; QAM 12 seeds, ten critics, settings per domain, 0.5M online steps.'
)
CELL = ['row', 'task']


def select(
    plan: Plan, table: pd.DataFrame, warn: runs.Warn = runs.warn_user, any_version: bool = False
) -> pd.DataFrame:
    """Returns the results that belong to a plan, with their `row` and the `end` of their phase.

    Args:
        plan: has the cells.
        table: of results.
        warn: called with a line about results that are skipped, or from another version.
        any_version: whether a cell without results takes those with its name and task from another
            version of the code, whose settings had other defaults or names.
    """
    parts, earlier = [table.assign(row='', end=0).iloc[:0]], {}
    for cell in plan.cells:
        config, name = cell.config, f'{cell.name}, {cell.task}'
        mine = table[(table['method'] == cell.name) & (table['task'] == cell.task)]
        mine = mine[mine['seed'].isin(config.seeds)]
        same = mine[mine['identity'] == config.identity]
        if same.empty and any_version and len(mine):
            same = mine[mine['identity'] == mine['identity'].iloc[-1]]
            earlier.setdefault(cell.row, set()).update(same['commit'].str[:8])
        if same['data'].nunique() > 1:
            warn(f'{name}: runs on several data sets; the report uses the last one')
            same = same[same['data'] == same['data'].iloc[-1]]
        same = same.assign(row=cell.row, end=same['phase'].map(config.steps))
        parts.append(same[same['step'] <= same['end']])  # a run may have been trained further
    if earlier:
        rows = '; '.join(f'{row} ({", ".join(sorted(made))})' for row, made in earlier.items())
        warn(f'Made by earlier commits, where their settings had another identity: {rows}')
    return pd.concat(parts, ignore_index=True)


# ---- tables -------------------------------------------------------------------------------------


def ends_of(scores: pd.DataFrame, last: int = 1) -> pd.Series:
    """Returns the score at the end of each complete phase, by phase, row, task and seed.

    Args:
        scores: of a plan, see `select` and `runs.scores`.
        last: number of evaluations to average. The one at step 0, before the phase, never counts.
    """
    key = ['phase', *CELL, 'seed']
    trained = scores[scores['step'] > 0].sort_values('step')
    complete = trained.groupby(key)['step'].transform('max') == trained['end']
    return trained[complete].groupby(key).tail(last).groupby(key)['value'].mean()


def entries_of(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """Returns the entries of a plan's table, one per phase, task (or line) and method (row).

    They have the columns that `tables.grid` takes, the mean of the last three evaluations
    (last3_…), and the online steps to 95% success: the median of the seeds that reached it, and
    their number. A line with several tasks has means over tasks, of the seeds that all tasks have.
    """
    lines, speeds = lines_of(plan), speeds_of(plan, scores)
    if len(plan.tasks) > 1 and scores['metric'].nunique() < 2:
        lines |= {'average': plan.tasks}
    by_task = [ends_of(scores, last).unstack('task').reindex(columns=plan.tasks) for last in (1, 3)]
    published = read_published(plan) if plan.scale == 'paper' else {}
    entries = []
    for line, tasks in lines.items():
        means = [each[tasks].dropna().mean(axis=1).groupby(['phase', 'row']) for each in by_task]
        final, last3 = ({key: values.to_numpy() for key, values in each} for each in means)
        for phase, row in itertools.product(plan.phases, plan.rows):
            mean, std, note = published.get((phase, row, line), (None, None, ''))
            steady = tables.statistics(last3.get((phase, row), []))
            steps = speeds.get((line, row), ()) if phase == 'online' else ()
            entries.append(
                {'phase': phase, 'task': line, 'method': row,
                 **tables.statistics(final.get((phase, row), []), None if note else mean),
                 'planned_seeds': plan.cells[0].config.num_seeds,
                 'published_mean': mean, 'published_std': std,
                 'last3_mean': steady['mean'], 'last3_std': steady['std'],
                 'steps_to_95': steps.median() if len(steps) else None,
                 'seeds_to_95': steps.count() if len(steps) else ''}
            )  # fmt: skip
    return pd.DataFrame(entries).sort_values('phase', kind='stable', ignore_index=True)


def lines_of(plan: Plan) -> dict[str, list[str]]:
    """Returns the tasks of each line of a plan's table, without the average line."""
    return dict(plan.groups) if plan.by_group else {task: [task] for task in plan.tasks}


def read_published(plan: Plan) -> dict[tuple[str, str, str], tuple[float, float, str]]:
    """Returns mean, std (%) and note of the paper's table, by phase, row and line.

    Do not compare entries that have a note with ours.
    """
    table = pd.read_csv(PAPER / 'tables.csv', dtype={'table': str}).fillna({'note': ''})
    table = table[(table['table'] == plan.table) & table['mean'].notna()]
    # The setting 'lambda=1.0' is our row 'lambda=1'.
    rows = table['setting'].fillna(table['method']).str.removesuffix('.0')
    keys = zip(table['phase'], rows, table['task'], strict=True)
    return dict(
        zip(keys, zip(table['mean'], table['std'], table['note'], strict=True), strict=True)
    )


def speeds_of(plan: Plan, scores: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Returns each seed's first online step with 95% success, by line and row; NaN if never."""
    online = scores[(scores['phase'] == 'online') & (scores['metric'] == 'success')]
    reached = online.assign(step=online['step'].where(online['value'] >= 95))
    first = reached.groupby([*CELL, 'seed'])['step'].min().reset_index()
    return {
        (line, row): first['step'][(first['row'] == row) & first['task'].isin(tasks)]
        for (line, tasks), row in itertools.product(lines_of(plan).items(), plan.rows)
    }


def grids_of(plan: Plan, scores: pd.DataFrame, entries: pd.DataFrame, markup: Markup) -> list[Grid]:
    """Returns the tables of a report, with texts as cells."""
    score = runs.score_name(scores['metric']).replace(' (%)', ' in %')
    steady = entries.assign(mean=entries['last3_mean'], std=entries['last3_std'])
    found = [
        tables.grid(each[each['phase'] == phase], heading.format(phase), markup)
        for each, heading in (
            (entries, f'End of the {{}} phase, {score}'),
            (steady.drop(columns='published_mean'),
             f'Last three evaluations of the {{}} phase, mean {score}'),
        )
        for phase in plan.phases
    ]  # fmt: skip
    if 'online' in plan.phases:
        texts: dict[str, dict[str, str]] = {row: {} for row in plan.rows}
        for (line, row), steps in speeds_of(plan, scores).items():
            median = f'{steps.median():,.0f} ' if steps.count() else ''
            texts[row][line] = f'{median}({steps.count()} of {len(steps)})' if len(steps) else ''
        note = 'The median of the seeds that reach it; (2 of 3) is their number.'
        found.append(Grid('Online steps to 95% success', pd.DataFrame(texts), note))
    return found


# ---- figures, and how the results were made -----------------------------------------------------


def published_curves() -> pd.DataFrame:
    """Returns published curves: source, task, method, total_step, mean (%)."""
    table = pd.read_csv(PAPER / 'curves.csv')
    return table.assign(total_step=1e6 * table['step_millions'])


def aggregate(plan: Plan, scores: pd.DataFrame) -> Figure | None:
    """Draws the aggregates of all rows with results at the end of the last phase.

    They cover the tasks on which all of these rows have results. Without such tasks, returns None.
    """
    phase, ends = plan.phases[-1], ends_of(scores)
    ends = ends[ends.index.get_level_values('phase') == phase]
    found = {key: values.to_numpy() for key, values in ends.groupby(CELL)}
    rows = [row for row in plan.rows if any(row == other for other, _ in found)]
    tasks = [task for task in plan.tasks if all((row, task) in found for row in rows)]
    if not rows or not tasks:
        return None
    by_row = {row: [found[row, task] for task in tasks] for row in rows}
    where = f'{len(tasks)} tasks that all have' if len(tasks) > 1 else '1 task'
    heading = f'End of the {phase} phase, {where}, 95% intervals'
    score = runs.score_name(scores['metric'][scores['task'].isin(tasks)])
    return aggregates.draw(by_row, score, heading, plan.rows)


def how(plan: Plan, results: pd.DataFrame) -> pd.DataFrame:
    """Returns hours, commits, versions and devices of each row of a plan."""
    found = []
    for row in plan.rows:
        mine = results[results['row'] == row]
        seconds = mine[mine['metric'] == 'seconds'].groupby(['task', 'seed'])['value'].max()
        texts = {name: sorted({*mine[name]} - {''}) for name in runs.HOW}
        found.append(
            {
                'method': row,
                'hours of a run, median': f'{seconds.median() / 3600:.2f}' if len(seconds) else '',
                'commit': ', '.join(commit[:8] for commit in texts['commit']),
                'versions': ' or '.join(texts['versions']),
                'device': ', '.join(texts['device']),
            }
        )
    return pd.DataFrame(found)


def settings_of(plan: Plan) -> pd.DataFrame:
    """Returns the flags of each row, with flag files and methods expanded, and their tasks."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in sorted(plan.cells, key=lambda cell: plan.rows.index(cell.row)):
        method = cell.config.method
        usual = method_settings(method, cell.task) if method else {}
        given = [f'--{name}={value}' for name, value in usual.items()]
        given += FlagValues().read_flags_from_files(list(cell.arguments))
        text = ' '.join(flag for flag in given if not flag.startswith('--env_name='))
        found.setdefault((cell.row, text), []).append(curves.short(cell.task))
    return pd.DataFrame(
        [
            {'method': row, 'tasks': ', '.join(tasks), 'flags': text}
            for (row, text), tasks in found.items()
        ]
    )


def write(
    plan: Plan,
    table: pd.DataFrame,
    directory: pathlib.Path,
    with_published: bool,
    any_version: bool = False,
) -> list[pathlib.Path]:
    """Writes the report; returns its files.

    Args:
        plan: to report.
        table: of results.
        directory: for the files; created if missing.
        with_published: whether to draw the published curves under ours.
        any_version: see `select`.
    """
    notes = [SMALL] if plan.scale == 'small' else [CONTRADICTIONS]
    notes += [PUBLISHED] if with_published else []

    def warn(line: str) -> None:
        runs.warn_user(line)
        notes.append(f'{line}.')

    results = select(plan, table, warn, any_version)
    scores = runs.scores(results, warn)
    entries = entries_of(plan, scores)
    figures = {
        'curves': curves.draw(
            scores.assign(method=scores['row']),
            plan.tasks,
            plan.rows,
            published_curves() if with_published else None,
        ),
        'aggregate': aggregate(plan, scores),
    }
    picture = io.BytesIO()
    figures['curves'].savefig(picture, format='png', dpi=150)
    title = f'% {plan.title} (packages booktabs and amssymb)\n'
    markdown = map(tables.markdown, grids_of(plan, scores, entries, tables.MARKDOWN))
    latex = map(tables.latex, grids_of(plan, scores, entries, tables.LATEX))
    texts = {
        'md': '\n'.join([f'# {plan.title}\n', *markdown, *notes, '']),
        'tex': '\n'.join([title, *latex, *map(tables.escaped, notes), '']),
        'html': page.html(
            plan.title, notes, grids_of(plan, scores, entries, page.MARKUP),
            picture.getvalue(),
            {'How': how(plan, results), 'Settings': settings_of(plan)},
        ),
        'csv': entries.round(2).to_csv(index=False),
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    name = f'{plan.scale}-table-{plan.table}' if plan.table else f'{plan.scale}-methods'
    paths = []
    for suffix, text in texts.items():
        paths.append(directory / f'{name}.{suffix}')
        paths[-1].write_text(text, 'utf-8')
    paths.append(directory / f'{name}-results.csv')
    results[runs.COLUMNS].drop_duplicates().to_csv(paths[-1], index=False)
    for kind, figure in figures.items():
        for suffix in ('png', 'pdf') if figure else ():
            paths.append(directory / f'{name}-{kind}.{suffix}')
            figure.savefig(paths[-1], dpi=150)
    return paths
