"""Methods over all tasks at once: mean, interquartile mean, probability of improvement.

Intervals are stratified bootstraps: seeds are drawn anew within each task.
Source: Agarwal et al., Deep RL at the edge of the statistical precipice (arXiv 2108.13264).
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from reports.style import colours

RESAMPLES = 2000
Scores = list[np.ndarray]  # of each task, [seeds], %


def mean(scores: Scores) -> float:
    """Returns the mean over tasks of the mean over seeds."""
    return float(np.mean([np.mean(each) for each in scores]))


def interquartile_mean(scores: Scores) -> float:
    """Returns the mean of the middle half of all scores, of all tasks and seeds."""
    return float(scipy.stats.trim_mean(np.concatenate(scores), 0.25))


def improvement(scores: Scores, others: Scores) -> float:
    """Returns the probability that a seed beats a seed of another method, mean over tasks.

    A tie counts half.
    """
    each = []
    for x, y in zip(scores, others, strict=True):
        difference = np.subtract.outer(x, y)
        each.append(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))
    return float(np.mean(each))


def interval(
    statistic: Callable[..., float], *scores: Scores, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Returns the 95% interval of a statistic of one or two methods."""
    rng = np.random.default_rng(0)

    def drawn(of: Scores) -> Scores:
        return [rng.choice(each, len(each)) for each in of]

    found = [statistic(*(drawn(each) for each in scores)) for _ in range(resamples)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def shared_scores(
    rows: Sequence[str], ends: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Scores]:
    """Returns the scores of each row that has some, on the tasks on which all of these rows do.

    Args:
        rows: in their order.
        ends: [seeds] of tasks and rows, where there are any.
    """
    rows = [row for row in rows if any(row in each for each in ends.values())]
    shared = [each for each in ends.values() if all(row in each for row in rows)]
    return {row: [each[row] for each in shared] for row in rows} if shared else {}


def draw(rows: Sequence[str], scores: Mapping[str, Scores], phase: str) -> Figure:
    """Draws mean, interquartile mean and DFP's probability of improvement, with intervals.

    Args:
        rows: all that have a colour.
        scores: of those that are drawn, at least one, on the same tasks.
        phase: whose end it is.
    """
    palette, shown = colours(rows), list(scores)
    ours = 'DFP' if 'DFP' in shown else shown[-1]
    others = [row for row in shown if row != ours]
    across = 3 if others else 2
    figure, axes = plt.subplots(
        1, across, figsize=(3.7 * across, 0.45 * len(shown) + 1.6), layout='constrained'
    )
    count = len(scores[ours])
    where = f'{count} tasks that all have' if count > 1 else '1 task'
    figure.suptitle(f'End of the {phase} phase, {where}, 95% intervals', size=10)
    statistics = (('mean over tasks (%)', mean), ('interquartile mean (%)', interquartile_mean))
    for axis, (title, statistic) in zip(axes, statistics, strict=False):
        for place, row in enumerate(shown):
            _bar(axis, place, statistic(scores[row]), interval(statistic, scores[row]),
                 palette[row])  # fmt: skip
        _label(axis, shown, title, 100)
    if others:
        for place, row in enumerate(others):
            value = improvement(scores[ours], scores[row])
            found = interval(improvement, scores[ours], scores[row])
            _bar(axes[2], place, value, found, palette[row])
        axes[2].axvline(0.5, color='0.5', linewidth=0.8, linestyle='--')
        _label(axes[2], others, f'P({ours} beats it)', 1)
    return figure


def _bar(axis, place: int, value: float, found: tuple[float, float], colour: str) -> None:
    low, high = found
    axis.barh(place, high - low, left=low, height=0.6, color=colour, alpha=0.45)
    axis.plot([value, value], [place - 0.3, place + 0.3], color=colour, linewidth=2.5)


def _label(axis, rows: Sequence[str], title: str, most: float) -> None:
    axis.set_xlim(-0.02 * most, 1.02 * most)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3, axis='x')
