"""Learning curves in panels, a task each."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.style import colours

# Of each source of published curves.
STYLES = {'DFP': ('--', 'DFP paper'), 'QC': (':', 'QC'), 'QAM': ('-.', 'QAM')}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Success (%) of a method on a task.

    Attributes:
        steps: [T], of both phases, in millions.
        values: [T, seeds].
        boundary: the step where the online phase begins, in millions.
    """

    steps: np.ndarray
    values: np.ndarray
    boundary: float

    @property
    def mean(self) -> np.ndarray:
        return self.values.mean(axis=1)

    def band(self) -> tuple[np.ndarray, np.ndarray] | None:
        """95% bootstrap interval of the mean over seeds; None with fewer than two."""
        if self.values.shape[1] < 2:
            return None
        rng = np.random.default_rng(0)
        picks = rng.integers(self.values.shape[1], size=(2000, self.values.shape[1]))
        means = self.values[:, picks].mean(axis=2)
        low, high = np.percentile(means, [2.5, 97.5], axis=1)
        return low, high


def draw(
    tasks: Sequence[str],
    rows: Sequence[str],
    curves: Mapping[str, Mapping[str, Curve]],
    published: Mapping[tuple[str, str], Sequence[tuple[str, np.ndarray]]],
) -> Figure:
    """Draws a panel for each task and a line for each row, the offline phase grey.

    Args:
        tasks: the panels.
        rows: methods.
        curves: of tasks and rows, where there are any.
        published: source and curve [T, 2] (millions of steps, %) by task and row; drawn thin.
    """
    across = 2 if len(tasks) == 4 else min(3, len(tasks))
    down = -(-len(tasks) // across)
    handles = _handles(tasks, rows, curves, published)
    columns = {1: 2, 2: 4}.get(across, 6)  # of the legend, as many as there is room for
    height = 2.7 * down + 0.4 + 0.22 * -(-len(handles) // columns)
    figure, axes = plt.subplots(
        down, across, figsize=(3.6 * across + 0.4, height), layout='constrained',
        squeeze=False, sharey=True,
    )  # fmt: skip
    palette = colours(rows)
    for i, task in enumerate(tasks):
        axis = axes.flat[i]
        for row in rows:
            for source, points in published.get((task, row), ()):
                style, _ = STYLES[source]
                axis.plot(*points.T, color=palette[row], linewidth=0.8, linestyle=style)
            if curve := curves.get(task, {}).get(row):
                _draw(axis, curve, palette[row])
        _finish(axis, short(task), curves.get(task, {}))
        if not axis.lines:
            axis.set_xticks([])
            axis.text(0.5, 0.5, 'no run yet', transform=axis.transAxes, ha='center', color='0.5')
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel('success (%)')
    for axis in list(axes.flat)[: len(tasks)][-across:]:
        axis.set_xlabel('updates, then environment steps', fontsize='small')
    if handles:
        figure.legend(handles=handles, loc='outside lower center', ncols=columns, frameon=False)
    return figure


def _handles(
    tasks: Sequence[str],
    rows: Sequence[str],
    curves: Mapping[str, Mapping[str, Curve]],
    published: Mapping[tuple[str, str], Sequence[tuple[str, np.ndarray]]],
) -> list[plt.Line2D]:
    """Returns the entries of the legend: rows and published sources of what `draw` draws."""
    palette = colours(rows)
    ours = {row for task in tasks for row in curves.get(task, {})}
    found = [(task, row) for task in tasks for row in rows if (task, row) in published]
    drawn = ours | {row for _, row in found}
    sources = {source for key in found for source, _ in published[key]}
    return [
        *(plt.Line2D([], [], color=palette[row], label=row) for row in rows if row in drawn),
        *(
            plt.Line2D([], [], color='0.4', linestyle=style, linewidth=0.8,
                       label=f'published, {name}')
            for source, (style, name) in STYLES.items()
            if source in sources
        ),
    ]  # fmt: skip


def _draw(axis: Axes, curve: Curve, colour: str) -> None:
    axis.plot(curve.steps, curve.mean, color=colour, linewidth=1.6)
    if (band := curve.band()) is not None:
        axis.fill_between(curve.steps, *band, color=colour, alpha=0.18, linewidth=0)


def _finish(axis: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    boundary = max((curve.boundary for curve in curves.values()), default=0)
    if boundary:
        axis.axvspan(0, boundary, color='0.93', zorder=0)
    axis.set_ylim(-3, 103)
    axis.set_xlim(left=0)
    end = max((curve.steps[-1] for curve in curves.values()), default=1)
    scale, unit = (1000, 'k') if end < 0.5 else (1, 'M')
    axis.xaxis.set_major_formatter(lambda x, _: f'{scale * x:g}{unit}' if x else '0')
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)


def short(task: str) -> str:
    """Returns a task's name as a title: 'cube-double task 2'."""
    name = task.replace('-play', '').replace('-low_dim', '').removesuffix('-v0')
    return name.replace('-singletask-task', ' task ').replace('-singletask', '')
