"""Plots everything a run logged on one page, to show whether it is healthy.

    python -m reports.diagnostics exp/quickstart/<task>/<method>-sd000-<identity>
    python -m reports.diagnostics --output=compare.png <run> <run>

writes `diagnostics.png` into the run's folder. Several runs share the panels, each in its own
colour; a thin line is a seed. docs/metrics.md explains each metric and its usual values.
"""

import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from reports import runs
from reports.curves import boundary
from reports.style import BLUE, GREEN, OTHERS, RED
from utils.errors import UserError
from utils.host import settle


class Panel(NamedTuple):
    """A panel of the page.

    Attributes:
        title: with the unit.
        metrics: to draw, each with its own line style; a final `*` is a wildcard.
        log: whether the axis of values is logarithmic.
    """

    title: str
    metrics: tuple[str, ...]
    log: bool = False


PANELS = (
    Panel('evaluation success, %', ('success',)),
    Panel('evaluation return', ('return',)),
    Panel('values of actions', ('policy/q_best', 'policy/q_samples', 'policy/q_data')),
    Panel('values in the batch', ('critic/q_max', 'critic/q_mean', 'critic/q_min')),
    Panel('critic loss', ('critic/loss',), log=True),
    Panel('diversity of samples', ('policy/diversity',)),
    Panel('distance to the slow copy', ('policy/distance_to_old',)),
    Panel('raw force of the field', ('actor/data_force_*', 'actor/topk_force_*'), log=True),
    Panel('scale of the field', ('actor/data_scale', 'actor/topk_scale')),
    Panel('losses of the policy', ('actor/*_loss',)),
    Panel('action entries at the bounds, %', ('actor/saturated',)),
    Panel('online episode success, %', ('episode_success',)),
)
PERCENT = ('success', 'actor/saturated', 'episode_success')
STYLES = ('-', '--', ':', '-.')


def read(folder: pathlib.Path) -> pd.DataFrame:
    """Returns everything a run logged, with its name in the column `label`.

    Raises:
        UserError: the folder has no rows.
    """
    table = runs.read_run(folder, tables=('eval', 'offline', 'online'))
    if table.empty:
        raise UserError(f'{folder}: no rows in offline.csv, online.csv or eval.csv')
    names = dict.fromkeys(table.loc[0, ['task', 'method', 'identity']])
    return table.assign(label=', '.join(name for name in names if name))


def found_in(panel: Panel, metrics: Sequence[str]) -> list[str]:
    """Returns those of `metrics` that a panel draws."""
    found = []
    for name in panel.metrics:
        start, star, end = name.partition('*')
        matches = (m for m in metrics if m.startswith(start) and m.endswith(end))
        found += matches if star else [name] * (name in metrics)
    return found


def draw(table: pd.DataFrame) -> Figure:
    """Draws the page of some runs, with a colour per `label`."""
    metrics, labels = list(table['metric'].unique()), list(table['label'].unique())
    panels = [panel for panel in PANELS if found_in(panel, metrics)]
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * lines), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False)
    colours = dict(zip(labels, (BLUE, RED, GREEN, *OTHERS), strict=False))
    for panel, axis in zip(panels, axes.flat, strict=False):
        names = found_in(panel, metrics)
        styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
        mine = table[table['metric'].isin(names)].sort_values('total_step', kind='stable')
        for (label, metric, _), points in mine.groupby(['label', 'metric', 'seed']):
            values = points['value'] * (100 if metric in PERCENT else 1)
            look = {'color': colours[label], 'linestyle': styles[metric], 'linewidth': 1}
            axis.plot(points['total_step'], values, **look, alpha=0.8)
        for _, run in table.groupby('label'):
            axis.axvspan(0, boundary(run), color='0.94', zorder=0)
        _finish(axis, panel, styles)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=colours[label], label=label) for label in labels]
    figure.legend(handles=handles, loc='outside upper center', ncols=2, fontsize=9)
    figure.supxlabel('updates (offline, grey), then environment steps', fontsize=9)
    return figure


def _finish(axis: Axes, panel: Panel, styles: dict[str, str]) -> None:
    if len(styles) > 1:
        handles = [
            Line2D([], [], color='0.3', linestyle=style, label=name)
            for name, style in styles.items()
        ]
        axis.legend(handles=handles, fontsize=7, framealpha=0.6)
    if panel.log:
        axis.set_yscale('log')
    if 'success' in panel.title:
        axis.set_ylim(-3, 103)
    axis.set_title(panel.title, fontsize=9)
    axis.tick_params(which='both', labelsize=8)
    axis.xaxis.set_major_formatter(EngFormatter(sep=''))
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)


def main(argv: Sequence[str]) -> None:
    settle()
    folders, output = [pathlib.Path(name).expanduser() for name in argv[1:]], flags.FLAGS.output
    try:
        if not folders:
            raise UserError('No run given; name the folders of one or more runs.')
        if len(folders) > 1 and not output:
            raise UserError('Several runs have no common folder; add --output=<picture>.')
        path = pathlib.Path(output or folders[0] / 'diagnostics.png')
        table = pd.concat(map(read, folders), ignore_index=True)
        twins = table.groupby('label')['run'].transform('nunique') > 1
        label = table['label'].mask(twins, table['label'] + ' (' + table['run'] + ')')
        draw(table.assign(label=label)).savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(path)


if __name__ == '__main__':
    flags.DEFINE_string('output', None, 'Picture to write; default: in the folder of the run.')
    app.run(main)
