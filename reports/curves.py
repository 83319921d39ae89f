"""Learning curves and tables of results, from the `eval.csv` files that runs leave.

    python -m reports.curves --output=curves.png exp/quickstart/*/*/eval.csv

draws the mean over the seeds of each method, and prints the success at the end of each phase.
"""

import csv
import pathlib
import statistics
from collections.abc import Iterable, Mapping

import matplotlib
from absl import app, flags

matplotlib.use('Agg')
import matplotlib.pyplot as plt

Row = dict[str, str]


def read_table(path: pathlib.Path) -> list[Row]:
    """Returns the rows of a CSV file."""
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def by_seed(files: Iterable[pathlib.Path]) -> list[list[Row]]:
    """Returns the rows of each seed in some `eval.csv` files, one list for each seed."""
    seeds: dict[tuple[pathlib.Path, str], list[Row]] = {}
    for file in files:
        for row in read_table(file):
            seeds.setdefault((file, row['seed']), []).append(row)
    return list(seeds.values())


def curve(rows: list[Row]) -> tuple[dict[int, float], int]:
    """Returns one seed's success (%) by step, and the last step of the offline phase.

    Online steps count on from the offline ones.
    """
    offline = max((int(row['step']) for row in rows if row['phase'] == 'offline'), default=0)
    points = {}
    for row in rows:
        # The end of one phase is the start of the other: the same agent, drawn once.
        if not (row['phase'] == 'online' and row['step'] == '0' and offline):
            step = int(row['step']) + (offline if row['phase'] == 'online' else 0)
            points[step] = 100 * float(row['success'])
    return points, offline


def learning_curve(runs: Mapping[str, list[pathlib.Path]], path: pathlib.Path, title: str) -> None:
    """Draws success against steps, the offline phase shaded, as in the paper's figure.

    Args:
        runs: `eval.csv` files by label; the seeds of one label are averaged, with a band of ± one
            standard deviation.
        path: of the PNG.
        title: above the axes.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout='constrained')
    boundary = 0
    for label, files in runs.items():
        curves: dict[int, list[float]] = {}
        seeds = by_seed(files)
        for rows in seeds:
            points, offline = curve(rows)
            boundary = max(boundary, offline)
            for step, success in points.items():
                curves.setdefault(step, []).append(success)
        steps = sorted(curves)
        means = [statistics.mean(curves[step]) for step in steps]
        stds = [statistics.pstdev(curves[step]) for step in steps]
        suffix = f' ({len(seeds)} seeds)' if len(seeds) > 1 else ''
        (line,) = axes.plot(steps, means, marker='o', markersize=3, label=label + suffix)
        if len(seeds) > 1:
            low = [max(m - s, 0) for m, s in zip(means, stds, strict=True)]
            high = [min(m + s, 100) for m, s in zip(means, stds, strict=True)]
            axes.fill_between(steps, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    if boundary:
        axes.axvspan(0, boundary, color='0.92', zorder=0)
        axes.text(boundary, 103, 'offline ', ha='right', va='bottom', color='0.4', fontsize=9)
        axes.text(boundary, 103, ' online', ha='left', va='bottom', color='0.4', fontsize=9)
    axes.set(xlabel='updates (offline), then environment steps (online)', ylabel='success (%)')
    axes.set_ylim(-3, 103)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=''))
    axes.grid(alpha=0.3)
    axes.set_title(title, pad=18, fontsize=11)
    axes.legend(loc='upper left', fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def final_successes(files: Iterable[pathlib.Path], phase: str) -> list[float]:
    """Returns the success (%) that each seed ended a phase with."""
    ends = [[row for row in rows if row['phase'] == phase][-1:] for rows in by_seed(files)]
    return [100 * float(row['success']) for end in ends for row in end]


def summary(runs: Mapping[str, list[pathlib.Path]]) -> str:
    """Returns a Markdown table of the success at the end of each phase, mean ± std over seeds."""
    lines = ['| | end of offline, % | end of online, % |', '|---|---|---|']
    for label, files in runs.items():
        cells = [label]
        for phase in ('offline', 'online'):
            values = final_successes(files, phase)
            if not values:
                cells.append('')
                continue
            each = ', '.join(f'{value:.0f}' for value in values)
            mean, std = statistics.mean(values), statistics.pstdev(values)
            cells.append(f'{mean:.1f} ± {std:.1f} ({each})')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(argv) -> None:
    files = [pathlib.Path(name) for name in argv[1:]]
    if not files:
        raise app.UsageError('Name one or more eval.csv files.')
    runs: dict[str, list[pathlib.Path]] = {}
    for file in sorted(files):
        runs.setdefault(file.parent.name.split('-sd')[0], []).append(file)
    title = flags.FLAGS.title or files[0].parent.parent.name
    learning_curve(runs, pathlib.Path(flags.FLAGS.output), title)
    print(summary(runs))


if __name__ == '__main__':
    flags.DEFINE_string('output', 'learning_curve.png', 'Picture to write.')
    flags.DEFINE_string('title', None, "Above it; default: the first file's environment.")
    app.run(main)
