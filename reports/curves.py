"""Learning curves and tables of results, from the `eval.csv` files that runs leave.

    python -m reports.curves --output=curves.png exp/quickstart/*/*/eval.csv

draws the mean over the seeds of each method, and prints the success at the end of each phase. Only
runs of the same task, method and settings are averaged. Runs that are unfinished, empty or there
twice are named and left out.
"""

import csv
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from absl import app, flags

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from reports.style import colours

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
            standard deviation, see `spread`.
        path: of the PNG.
        title: above the axes.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout='constrained')
    try:
        _draw(axes, runs, title)
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


def _draw(axes: Axes, runs: Mapping[str, list[pathlib.Path]], title: str) -> None:
    boundary = 0
    palette = colours(runs)
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
        stds = [spread(curves[step]) for step in steps]
        suffix = f' ({len(seeds)} seeds)' if len(seeds) > 1 else ''
        colour = palette[label]
        axes.plot(steps, means, marker='o', markersize=3, label=label + suffix, color=colour)
        if len(seeds) > 1:
            low = [max(m - s, 0) for m, s in zip(means, stds, strict=True)]
            high = [min(m + s, 100) for m, s in zip(means, stds, strict=True)]
            axes.fill_between(steps, low, high, alpha=0.2, color=colour, linewidth=0)
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


def spread(values: Sequence[float]) -> float:
    """Returns the standard deviation of a sample (n − 1), as in `reports.tables`; 0 of one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def final_successes(files: Iterable[pathlib.Path], phase: str) -> list[float]:
    """Returns the success (%) that each seed ended a phase with."""
    ends = [[row for row in rows if row['phase'] == phase][-1:] for rows in by_seed(files)]
    return [100 * float(row['success']) for end in ends for row in end]


def summary(runs: Mapping[str, list[pathlib.Path]]) -> str:
    """Returns a Markdown table of the success at the end of each phase, mean ± std over seeds.

    One seed has no std.
    """
    lines = ['| | end of offline, % | end of online, % |', '|---|---|---|']
    for label, files in runs.items():
        cells = [label]
        for phase in ('offline', 'online'):
            values = final_successes(files, phase)
            if not values:
                cells.append('')
                continue
            each = ', '.join(f'{value:.0f}' for value in values)
            mean, std = statistics.mean(values), spread(values)
            cells.append(f'{mean:.1f} ± {std:.1f} ({each})' if len(values) > 1 else f'{mean:.1f}')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


class Group(NamedTuple):
    """What runs have in common that differ in their seeds alone."""

    task: str
    method: str
    identity: str  # of the settings; empty for runs from before there were identities


def group_of(file: pathlib.Path) -> Group:
    """Returns the group of a run: what `flags.json` beside its `eval.csv` says, or its folder."""
    folder = file.absolute().parent
    task, (method, identity, _) = folder.parent.name, _parts(file)
    try:
        written = json.loads((folder / 'flags.json').read_text())
        flags_of_run = written['flags']
        task, identity = flags_of_run['env_name'], written['identity']
        method = flags_of_run['method'] or written['agent']['agent_name']
    except (OSError, ValueError, KeyError, TypeError):
        pass  # results are often kept without it
    return Group(task, method, identity)


def _parts(file: pathlib.Path) -> tuple[str, str, int]:
    """Returns method, identity and number of the copy, which the name of a run's folder says."""
    name = file.absolute().parent.name  # <method>-sd<seeds>-<identity>-<copy>
    match = re.fullmatch(r'(.+)-sd\d{3,}(?:-\d{3,7})?(?:-([0-9a-f]{8}))?(?:-(\d+))?', name)
    return (match[1], match[2] or '', int(match[3] or 1)) if match else (name, '', 1)


def grouped(
    files: Iterable[pathlib.Path], warn: Callable[[str], None]
) -> dict[Group, list[pathlib.Path]]:
    """Returns the `eval.csv` files of runs that may be averaged.

    Args:
        files: `eval.csv` files of any runs.
        warn: called with a line for each file that is left out: it cannot be read, has no rows, its
            run is unfinished, or a newer one has its seeds.
    """
    groups: dict[Group, list[pathlib.Path]] = {}
    for file in sorted(set(files), key=lambda file: (-_parts(file)[2], file)):  # newest first
        group = groups.setdefault(group_of(file), [])
        if problem := _problem(file, group):
            warn(f'{file}: {problem}; left out')
        else:
            group.append(file)
    for group in groups.values():
        furthest = max((_end(file) for file in group), default=None)
        for file in [file for file in group if _end(file) != furthest]:
            warn(f'{file}: unfinished (others of its kind went on); left out')
            group.remove(file)
    return {key: sorted(groups[key]) for key in sorted(groups) if groups[key]}


def _problem(file: pathlib.Path, others: list[pathlib.Path]) -> str | None:
    """Returns why a file cannot be averaged with others of its group, or None if it can."""
    try:
        rows = [(row['seed'], _where(row), float(row['success'])) for row in read_table(file)]
    except OSError as error:
        return f'cannot be read ({error.strerror})'
    except (KeyError, ValueError, TypeError, csv.Error):
        return 'not the eval.csv of a run'
    if not rows:
        return 'empty'
    try:
        status = json.loads((file.parent / 'status.json').read_text())['status']
    except (OSError, ValueError, KeyError, TypeError):
        status = 'done'  # results are often kept without it
    if status != 'done':
        return f'unfinished ({status})'
    seeds = {seed for seed, *_ in rows}
    for other in others:
        if seeds & {row['seed'] for row in read_table(other)}:
            return f'the same seeds as {other}'
    return None


def _where(row: Row) -> tuple[bool, int]:
    """Returns phase and step of a row, later ones greater."""
    return row['phase'] == 'online', int(row['step'])


def _end(file: pathlib.Path) -> tuple[bool, int]:
    return max(map(_where, read_table(file)))


def labelled(groups: Mapping[Group, list[pathlib.Path]]) -> dict[str, list[pathlib.Path]]:
    """Returns the files of each group by a label: the method, and what else tells it apart."""
    labels = {}
    for group, files in groups.items():
        parts = [group.method]
        if len({other.task for other in groups}) > 1:
            parts.append(group.task)
        if sum(group[:2] == other[:2] for other in groups) > 1:
            parts.append(group.identity or 'no identity')
        labels[', '.join(parts)] = files
    return labels


def main(argv) -> None:
    if len(argv) < 2:
        sys.exit('Name one or more eval.csv files.')
    groups = grouped(map(pathlib.Path, argv[1:]), lambda line: print(line, file=sys.stderr))
    if not groups:
        sys.exit('No finished run among these files: nothing to draw.')
    tasks = {group.task for group in groups}
    title = flags.FLAGS.title or (tasks.pop() if len(tasks) == 1 else f'{len(tasks)} tasks')
    runs = labelled(groups)
    try:
        learning_curve(runs, pathlib.Path(flags.FLAGS.output), title)
    except (OSError, ValueError) as error:
        sys.exit(f'--output={flags.FLAGS.output}: cannot be written ({error})')
    print(summary(runs))


if __name__ == '__main__':
    flags.DEFINE_string('output', 'learning_curve.png', 'Picture to write.')
    flags.DEFINE_string('title', None, 'Above it; default: the task.')
    app.run(main)
