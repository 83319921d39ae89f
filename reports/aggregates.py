"""Compares methods over all tasks: mean, interquartile mean, probability of improvement.

A statistic takes one array of scores per task, `[…, seeds]`, and reduces the last axis. Intervals
are stratified bootstraps: seeds are resampled within each task. Source: Agarwal et al., Deep RL at
the edge of the statistical precipice (arXiv 2108.13264). Their rliable needs the same number of
seeds on every task.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.style import colours

RESAMPLES = 10_000
Scores = Sequence[np.ndarray]  # of each task, […, seeds]


def mean(scores: Scores) -> np.ndarray:
    """Returns the mean over tasks of the mean over seeds."""
    return np.mean([each.mean(axis=-1) for each in scores], axis=0)


def interquartile_mean(scores: Scores) -> np.ndarray:
    """Returns the mean of the middle half of the scores of all tasks and seeds."""
    return scipy.stats.trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1)


def improvement(scores: Scores, others: Scores) -> np.ndarray:
    """Returns the probability that a seed beats one of another method, averaged over tasks.

    A tie counts as half.
    """
    each = []
    for x, y in zip(scores, others, strict=True):
        difference = x[..., :, None] - y[..., None, :]
        each.append(((np.sign(difference) + 1) / 2).mean(axis=(-2, -1)))
    return np.mean(each, axis=0)


def interval(statistic: Callable[..., np.ndarray], *methods: Scores) -> tuple[float, float]:
    """Returns the 95% interval of a statistic of one or two methods' scores, `[seeds]` per task."""
    rng = np.random.default_rng(0)
    drawn = [[rng.choice(each, (RESAMPLES, len(each))) for each in scores] for scores in methods]
    low, high = np.percentile(statistic(*drawn), [2.5, 97.5])
    return float(low), float(high)


def draw(
    scores: Mapping[str, Scores], score: str, heading: str, methods: Sequence[str] = ()
) -> Figure:
    """Draws mean, interquartile mean and DFP's probability of improvement, with intervals.

    Args:
        scores: by method, at least one, all on the same tasks.
        score: name of the score.
        heading: title of the figure.
        methods: to give colours to; default: those of `scores`.
    """
    palette, shown = colours(methods or scores), list(scores)
    ours = 'DFP' if 'DFP' in shown else shown[-1]
    others = [method for method in shown if method != ours]
    across = 3 if others else 2
    figure = Figure(figsize=(3.7 * across, 0.45 * len(shown) + 1.6), layout='constrained')
    figure.suptitle(heading, size=10)
    axes = figure.subplots(1, across)
    for axis, statistic, title in (
        (axes[0], mean, f'mean over tasks, {score}'),
        (axes[1], interquartile_mean, f'interquartile mean, {score}'),
    ):
        _bars(axis, {method: (statistic, [scores[method]]) for method in shown}, palette, title)
        if score.endswith('(%)'):
            axis.set_xlim(-2, 102)
    if others:
        pairs = {other: (improvement, [scores[ours], scores[other]]) for other in others}
        _bars(axes[2], pairs, palette, f'P({ours} beats it)')
        axes[2].axvline(0.5, color='0.5', linewidth=0.8, linestyle='--')
        axes[2].set_xlim(-0.02, 1.02)
    return figure


def _bars(axis: Axes, lines: Mapping[str, tuple], palette: Mapping[str, str], title: str) -> None:
    for place, (method, (statistic, scores)) in enumerate(lines.items()):
        value, (low, high) = statistic(*scores), interval(statistic, *scores)
        colour = palette[method]
        axis.barh(place, high - low, left=low, height=0.6, color=colour, alpha=0.45)
        axis.plot([value, value], [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
    axis.set_yticks(range(len(lines)), lines)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3, axis='x')
