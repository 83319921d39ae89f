"""A page of plots of everything that a run logged, to see whether it is healthy.

    python -m reports.diagnostics exp/quickstart/<task>/<method>-sd000-<identity>
    python -m reports.diagnostics --output=compare.png <run> <run>

writes `diagnostics.png` into the run's folder. Several runs share the panels, a colour for each; a
thin line is a seed. docs/metrics.md says what each metric is and what is usual.
"""

import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from absl import app, flags

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from reports.curves import Row, read_table
from reports.style import BLUE, GREEN, OTHERS, RED
from reports.videos import check_path
from utils.errors import UserError

Points = dict[str, tuple[list[int], list[float]]]  # of each seed: steps and values
Run = tuple[dict[str, Points], int]  # metrics, and the last step of the offline phase


class Panel(NamedTuple):
    """A panel of the page.

    Attributes:
        title: above it, with the unit.
        metrics: drawn in it; one that ends with `*` stands for all that begin so. Several are told
            apart by their style of line.
        log: whether the axis of values is logarithmic.
    """

    title: str
    metrics: tuple[str, ...]
    log: bool = False


PANELS = (
    Panel('success of evaluation, %', ('eval/success',)),
    Panel('values of actions', ('policy/q_best', 'policy/q_samples', 'policy/q_data')),
    Panel('values in the batch', ('critic/q_max', 'critic/q_mean', 'critic/q_min')),
    Panel('critic loss', ('critic/loss',), log=True),
    Panel('diversity of samples', ('policy/diversity',)),
    Panel('distance to the slow copy', ('policy/distance_to_old',)),
    Panel('raw force of the field', ('actor/data_force_*', 'actor/topk_force_*'), log=True),
    Panel('scale of the field', ('actor/data_scale', 'actor/topk_scale')),
    Panel('losses of the policy', ('actor/*_loss',)),
    Panel('entries at the bounds of actions, %', ('actor/saturated',)),
    Panel('success while playing, %', ('episode_success',)),
)
PERCENT = ('eval/success', 'actor/saturated', 'episode_success')
STYLES = ('-', '--', ':', '-.')


def read_run(folder: pathlib.Path) -> Run:
    """Returns what a run logged, by metric, and the last step of its offline phase.

    Online steps count on from the offline ones. Evaluations are named `eval/…`.

    Raises:
        UserError: there is nothing to read, or it is not what a run writes.
    """
    tables = {name: _rows(folder / f'{name}.csv') for name in ('offline', 'online', 'eval')}
    if not any(tables.values()):
        raise UserError(f'{folder}: no rows in offline.csv, online.csv or eval.csv')
    offline = [row for table in tables.values() for row in table if row['phase'] == 'offline']
    boundary = max((int(row['step']) for row in offline), default=0)
    metrics: dict[str, Points] = {}
    for name, rows in tables.items():
        for row in rows:
            step = int(row['step']) + (boundary if row['phase'] == 'online' else 0)
            for column, cell in list(row.items())[4:]:  # after phase, step, seed, seconds
                if cell:
                    metric = f'eval/{column}' if name == 'eval' else column
                    value = float(cell) * (100 if metric in PERCENT else 1)
                    steps, values = metrics.setdefault(metric, {}).setdefault(row['seed'], ([], []))
                    steps.append(step)
                    values.append(value)
    return metrics, boundary


def _rows(path: pathlib.Path) -> list[Row]:
    rows = read_table(path) if path.exists() else []
    if rows and list(rows[0])[:4] != ['phase', 'step', 'seed', 'seconds']:
        raise UserError(f'{path}: not a table of a run')
    return rows


def found_in(panel: Panel, metrics: Mapping[str, Points]) -> list[str]:
    """Returns the metrics of a panel that a run has."""
    found = []
    for name in panel.metrics:
        start, star, end = name.partition('*')
        matches = (m for m in metrics if m.startswith(start) and m.endswith(end))
        found += matches if star else [name] * (name in metrics)
    return found


def draw(read: Mapping[str, Run], path: pathlib.Path) -> None:
    """Draws the page.

    Args:
        read: what `read_run` returned, by label.
        path: of the picture; its ending decides the format.
    """
    panels = [p for p in PANELS if any(found_in(p, metrics) for metrics, _ in read.values())]
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 2.7 * lines), layout='constrained', squeeze=False
    )
    try:
        colours = dict(zip(read, (BLUE, RED, GREEN, *OTHERS), strict=False))
        for panel, ax in zip(panels, axes.flat, strict=False):
            _draw_panel(ax, panel, read, colours)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        if len(read) > 1:
            handles = [plt.Line2D([], [], color=colours[label], label=label) for label in read]
            figure.legend(handles=handles, loc='outside upper center', ncols=2, fontsize=9)
        else:
            figure.suptitle(next(iter(read)), fontsize=11)
        figure.supxlabel('updates (offline, grey), then environment steps', fontsize=9)
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)


def _draw_panel(
    ax: Axes, panel: Panel, read: Mapping[str, Run], colours: Mapping[str, str]
) -> None:
    names: list[str] = []
    for metrics, _ in read.values():
        names += [name for name in found_in(panel, metrics) if name not in names]
    for label, (metrics, boundary) in read.items():
        for i, name in enumerate(names):
            for steps, values in metrics.get(name, {}).values():
                style = STYLES[i % len(STYLES)]
                ax.plot(steps, values, style, color=colours[label], linewidth=1, alpha=0.8)
        if boundary:
            ax.axvspan(0, boundary, color='0.94', zorder=0)
    if len(names) > 1:
        handles = [
            plt.Line2D([], [], color='0.3', linestyle=STYLES[i % len(STYLES)], label=name)
            for i, name in enumerate(names)
        ]
        ax.legend(handles=handles, fontsize=7, framealpha=0.6)
    if panel.log:
        ax.set_yscale('log')
    ax.set_title(panel.title, fontsize=9)
    if 'success' in panel.title:
        ax.set_ylim(-3, 103)
    ax.tick_params(which='both', labelsize=8)
    ax.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=''))
    ax.set_xlim(left=0)
    ax.grid(alpha=0.3)


def label_of(folder: pathlib.Path) -> str:
    """Returns task and method of a run, and the name of its folder if they cannot be read."""
    try:
        written = json.loads((folder / 'flags.json').read_text())
        method = written['flags']['method'] or written['agent']['agent_name']
        return f'{written["flags"]["env_name"]}, {method}, {written["identity"]}'
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def main(argv: Sequence[str]) -> None:
    folders = [pathlib.Path(name).expanduser() for name in argv[1:]]
    output = flags.FLAGS.output
    try:
        if not folders:
            raise UserError('Name the folder of a run, or several.')
        if len(folders) > 1 and not output:
            raise UserError('Several runs: say with --output=<picture> where their page goes.')
        path = pathlib.Path(output or folders[0] / 'diagnostics.png')
        labels = [label_of(folder.absolute()) for folder in folders]
        if len(set(labels)) < len(labels):
            labels = [f'{a} ({b})' for a, b in zip(labels, folders, strict=True)]
        read = dict(zip(labels, map(read_run, folders), strict=True))
        check_path(path, 'output', ('.png', '.pdf', '.svg'))
        draw(read, path)
    except UserError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f'--output={path}: cannot be written ({error.strerror or error})')
    print(path)


if __name__ == '__main__':
    flags.DEFINE_string('output', None, 'Picture to write; default: in the folder of the run.')
    app.run(main)
