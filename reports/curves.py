"""Learning curves, one panel per task, and the scores at the end of each phase.

    python -m reports.curves --output=curves.png exp/quickstart/*/*/eval.csv

draws each method's mean over seeds with its 95% bootstrap interval, and prints a table. Only runs
of the same task, method, settings and data are averaged. Unfinished, empty or duplicate runs are
skipped with a warning. It also reads files of gathered results, such as results/small.csv.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from reports import aggregates, runs, tables
from reports.style import colours
from utils.errors import UserError
from utils.host import settle

# Line style of each source of published curves.
STYLES = {'DFP': ('--', 'DFP paper'), 'QC': (':', 'QC'), 'QAM': ('-.', 'QAM')}


def curves(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns task, method, total_step, and over seeds the mean, low and high (95%), and number.

    With one seed, low and high are NaN.
    """
    # The end of one phase is the start of the next: the same agent, drawn once.
    again = (scores['phase'] == 'online') & (scores['step'] == 0) & (scores['total_step'] > 0)
    points = []
    for key, values in scores[~again].groupby(['task', 'method', 'total_step'])['value']:
        found = np.nan, np.nan
        if len(values) > 1:
            found = aggregates.interval(aggregates.mean, [values.to_numpy()])
        points.append((*key, values.mean(), *found, len(values)))
    names = ['task', 'method', 'total_step', 'mean', 'low', 'high', 'seeds']
    return pd.DataFrame(points, columns=names)


def boundary(scores: pd.DataFrame) -> int:
    """Returns the step where the online phase begins."""
    return int(scores['total_step'].where(scores['phase'] == 'offline', 0).max())


def draw(
    scores: pd.DataFrame,
    tasks: Sequence[str],
    methods: Sequence[str],
    published: pd.DataFrame | None = None,
) -> Figure:
    """Draws one panel per task and one line per method; the offline phase is grey.

    Args:
        scores: see `runs.scores`.
        tasks: the panels.
        methods: the lines.
        published: curves (source, task, method, total_step, mean), drawn thin.
    """
    found, palette, score = curves(scores), colours(methods), runs.score_name(scores['metric'])
    if published is None:
        published = pd.DataFrame(columns=['source', 'task', 'method'])
    published = published[published['task'].isin(tasks) & published['method'].isin(methods)]
    drawn, sources = {*found['method'], *published['method']}, {*published['source']}
    handles = [Line2D([], [], color=palette[x], label=x) for x in methods if x in drawn]
    handles += [
        Line2D([], [], color='0.4', linestyle=style, linewidth=0.8, label=f'published, {name}')
        for source, (style, name) in STYLES.items()
        if source in sources
    ]
    across = 2 if len(tasks) == 4 else min(3, len(tasks))
    down = -(-len(tasks) // across)
    columns = {1: 4, 2: 4}.get(across, 6)  # as many legend columns as fit
    width, height = (6.0, 3.6) if len(tasks) == 1 else (3.6, 2.7)
    size = width * across + 0.4, height * down + 0.4 + 0.22 * -(-len(handles) // columns)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(down, across, squeeze=False, sharey=score.endswith('(%)'))
    for axis, task in zip(axes.flat, tasks, strict=False):
        for (method, source), points in published.groupby(['method', 'source']):
            points, style = points[points['task'] == task], STYLES[source][0]
            steps, colour = points['total_step'], palette[method]
            axis.plot(steps, points['mean'], style, color=colour, linewidth=0.8)
        for method, points in found[found['task'] == task].groupby('method'):
            steps, colour = points['total_step'], palette[method]
            axis.plot(steps, points['mean'], color=colour, linewidth=1.6)
            band = points['low'], points['high']
            axis.fill_between(steps, *band, color=colour, alpha=0.18, linewidth=0)
        _finish(axis, task, scores[scores['task'] == task])
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    figure.supylabel(score, fontsize=10)
    title = 'updates, then environment steps'
    if (found['seeds'] > 1).any():
        title += f'; mean of {" or ".join(map(str, sorted({*found["seeds"]})))} seeds, 95% interval'
    if handles:
        figure.legend(
            handles=handles, loc='outside lower center', ncols=columns, frameon=False,
            title=title, title_fontsize='small',
        )  # fmt: skip
    return figure


def _finish(axis: Axes, task: str, scores: pd.DataFrame) -> None:
    if scores.empty and not axis.lines:
        axis.text(0.5, 0.5, 'no run yet', transform=axis.transAxes, ha='center', color='0.5')
    if not scores.empty:
        axis.axvspan(0, boundary(scores), color='0.93', zorder=0)
    score = runs.score_name(scores['metric'])
    if score.endswith('(%)'):
        axis.set_ylim(-3, 103)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=''))
    axis.set_title(short(task) if score.endswith('(%)') else f'{short(task)}, {score}', fontsize=10)
    axis.grid(alpha=0.3)


def short(task: str) -> str:
    """Returns a task's name as a title: 'cube-double task 2'."""
    name = task.replace('-play', '').replace('-low_dim', '').removesuffix('-v0')
    return name.replace('-singletask-task', ' task ').replace('-singletask', '')


def labelled(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns the scores with unique method names: with identity or data where they differ."""
    method = scores['method']
    for name in ('identity', 'data'):
        several = scores.groupby(['method', 'task'])[name].transform('nunique') > 1
        method = method.mask(several, method + ', ' + scores[name].replace('', f'no {name}'))
    return scores.assign(method=method)


def summary(scores: pd.DataFrame) -> str:
    """Returns a Markdown table of the score at the end of each phase, mean ± std over seeds."""
    key = ['task', 'method', 'phase']
    ends = scores[scores['step'] == scores.groupby(key)['step'].transform('max')]
    texts = ends.sort_values('seed').groupby(key)['value'].apply(_each).unstack('phase')
    texts = texts.reindex(columns=['offline', 'online']).astype(object).fillna('')
    if scores['task'].nunique() == 1:
        texts = texts.droplevel('task')
    else:
        texts.index = texts.index.map(', '.join)
    unit = '%' if runs.score_name(scores['metric']).endswith('(%)') else 'score'
    return tables.lines(texts.add_prefix('end of ').add_suffix(f', {unit}'))


def _each(values: pd.Series) -> str:
    if len(values) == 1:
        return f'{values.mean():.1f}'
    each = ', '.join(f'{value:.0f}' for value in values)
    return f'{values.mean():.1f} ± {values.std():.1f} ({each})'


def main(argv: Sequence[str]) -> None:
    settle()
    output, title = flags.FLAGS.output, flags.FLAGS.title
    try:
        table = runs.read(pathlib.Path(name).expanduser() for name in argv[1:])
        scores = labelled(runs.scores(table))
        if scores.empty:
            raise UserError('No finished runs: name their eval.csv files.')
        tasks, methods = (sorted(scores[name].unique()) for name in ('task', 'method'))
        figure = draw(scores, tasks, methods)
        if title:
            figure.axes[0].set_title(title, fontsize=10)
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(summary(scores))


if __name__ == '__main__':
    flags.DEFINE_string('output', 'learning_curve.png', 'Picture to write.')
    flags.DEFINE_string('title', None, 'Title of the first panel; default: the task.')
    app.run(main)
