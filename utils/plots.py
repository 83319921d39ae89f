"""Pictures and tables of results.

    python -m utils.plots --output=curves.png exp/quickstart/*/*/eval.csv

draws the runs named, averaged over the seeds of a method, and prints their success at the end of
each phase.
"""

import csv
import pathlib
import statistics

import matplotlib
from absl import app, flags

matplotlib.use('Agg')
import matplotlib.pyplot as plt


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file."""
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def learning_curve(runs: dict[str, list[pathlib.Path]], path: pathlib.Path, title: str) -> None:
    """Draws success against steps, the offline phase shaded, as in the paper's figure.

    Args:
        runs: `eval.csv` files by label; those of one label are averaged, with a band of ± one
            standard deviation.
        path: of the PNG.
        title: above the axes.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout='constrained')
    boundary = 0
    for label, files in runs.items():
        curves: dict[float, list[float]] = {}
        for file in files:
            rows = read_table(file)
            offline = max((int(r['step']) for r in rows if r['phase'] == 'offline'), default=0)
            boundary = max(boundary, offline)
            for row in rows:
                step = int(row['step']) + (offline if row['phase'] == 'online' else 0)
                # The end of one phase is the start of the other: the same agent, drawn once.
                if not (row['phase'] == 'online' and row['step'] == '0' and offline):
                    curves.setdefault(step, []).append(100 * float(row['success']))
        steps = sorted(curves)
        means = [sum(curves[s]) / len(curves[s]) for s in steps]
        stds = [
            (sum((v - m) ** 2 for v in curves[s]) / len(curves[s])) ** 0.5
            for s, m in zip(steps, means, strict=True)
        ]
        suffix = f' ({len(files)} seeds)' if len(files) > 1 else ''
        (line,) = axes.plot(steps, means, marker='o', markersize=3, label=label + suffix)
        if len(files) > 1:
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


def final_success(file: pathlib.Path, phase: str) -> float | None:
    """Returns the success (%) that a run ended a phase with."""
    rows = [row for row in read_table(file) if row['phase'] == phase]
    return 100 * float(rows[-1]['success']) if rows else None


def summary(runs: dict[str, list[pathlib.Path]]) -> str:
    """Returns a Markdown table of the success at the end of each phase, mean ± std over seeds."""
    lines = ['| | end of offline, % | end of online, % |', '|---|---|---|']
    for label, files in runs.items():
        cells = [label]
        for phase in ('offline', 'online'):
            values = [v for file in files if (v := final_success(file, phase)) is not None]
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
    learning_curve(runs, pathlib.Path(flags.FLAGS.output), files[0].parent.parent.name)
    print(summary(runs))


if __name__ == '__main__':
    flags.DEFINE_string('output', 'learning_curve.png', 'Picture to write.')
    app.run(main)
