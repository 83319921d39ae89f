"""Tables in the paper's layout: our numbers, with the published ones beside them.

A cell is the mean ± the standard deviation (n − 1) over seeds. The best of a line is bold, the
second best underlined. Cells without a run stay empty; those with fewer seeds than planned say so.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000  # of the bootstrap


class Published(NamedTuple):
    """What the paper has for an entry, in %."""

    mean: float
    std: float | None = None
    note: str = ''  # why ours is not compared with it


@dataclasses.dataclass(frozen=True)
class Number:
    """The entry of a table.

    Attributes:
        values: of each seed, %.
        planned: how many seeds there shall be.
        published: the paper's; None: it has none.
    """

    values: tuple[float, ...]
    planned: int
    published: Published | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% bootstrap interval of the mean over seeds; None with fewer than two."""
        if len(self.values) < 2:
            return None
        rng = np.random.default_rng(0)
        draws = rng.choice(np.array(self.values), (RESAMPLES, len(self.values)))
        low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: for each phase, lines (tasks and averages) of entries by column (methods).

    Attributes:
        columns: their names.
        lines: by phase and line, the entry of each column.
    """

    columns: list[str]
    lines: dict[str, dict[str, dict[str, Number]]]


# ---- as text ------------------------------------------------------------------------------------


def ranks(entries: Mapping[str, Number]) -> dict[str, int]:
    """Returns 1 for the best columns of a line and 2 for the second best."""
    means = {name: round(n.mean, 1) for name, n in entries.items() if n.values}
    order = sorted(set(means.values()), reverse=True)[:2]
    return {name: order.index(mean) + 1 for name, mean in means.items() if mean in order}


class Markup(NamedTuple):
    """How a cell is written: what is put around the parts that it may have."""

    best: str
    second: str
    missing: str
    published: str


MARKDOWN = Markup('**{}**', '<u>{}</u>', ' [{}]', ' ({})')
LATEX_SIGNS = {
    **{sign: rf'\{sign}' for sign in '_%&'},
    **{'±': r'$\pm$', '✓': r'$\checkmark$', '✗': r'$\times$', 'λ': r'$\lambda$'},
}
LATEX = Markup(r'\textbf{{{}}}', r'\underline{{{}}}', ' [{}]', r'\\ {{\scriptsize ({})}}')


def cell(number: Number, rank: int | None, markup: Markup) -> str:
    """Returns an entry as text: ours, how many seeds are missing, and the paper's.

    Args:
        number: the entry.
        rank: 1 for the best of its line, 2 for the second best.
        markup: of the text.
    """
    text = ''
    if number.values:
        text = f'{number.mean:.1f} ± {number.std:.1f}'
        text = {1: markup.best, 2: markup.second}.get(rank or 0, '{}').format(text)
        if len(number.values) < number.planned:
            text += markup.missing.format(f'{len(number.values)} of {number.planned} seeds')
    if number.published:
        mean, std, _ = number.published
        published = f'paper {mean:.1f}' if std is None else f'paper {mean:.1f} ± {std:.1f}'
        text += markup.published.format(published + agrees(number))
    return text.strip()


def agrees(number: Number) -> str:
    """Says whether the published mean lies in the interval of ours: ' ✓', ' ✗', or nothing."""
    if number.interval is None or number.published is None or number.published.note:
        return ''
    low, high = number.interval
    return ' ✓' if low <= number.published.mean <= high else ' ✗'


class Grid(NamedTuple):
    """A table as texts: what it shows, its columns, their cells by line, and a note below."""

    heading: str
    columns: list[str]
    lines: dict[str, list[str]]
    note: str


def grids(table: Table, heading: str, markup: Markup) -> list[Grid]:
    """Returns the texts of a table, phase by phase.

    Args:
        table: of them.
        heading: with {} for the phase.
        markup: of the cells.
    """
    found = []
    for phase, lines in table.lines.items():
        numbers = [number for entries in lines.values() for number in entries.values()]
        note = f'± is the standard deviation (n - 1) over {max(n.planned for n in numbers)} seeds'
        if any(0 < len(number.values) < number.planned for number in numbers):
            note += '; cells with fewer say so'
        cells = {}
        for line, entries in lines.items():
            best = ranks(entries)
            cells[line] = [cell(entries[name], best.get(name), markup) for name in table.columns]
        found.append(Grid(heading.format(phase), table.columns, cells, f'{note}.'))
    return found


def markdown(grid: Grid) -> str:
    """Returns a grid in Markdown."""
    lines = [['', *grid.columns], *([line, *cells] for line, cells in grid.lines.items())]
    head, *rows = (f'| {" | ".join(line)} |' for line in lines)
    rule = '|---' * (len(grid.columns) + 1) + '|'
    return '\n'.join([f'## {grid.heading}\n', head, rule, *rows, f'\n{grid.note}\n'])


def latex(grid: Grid) -> str:
    """Returns a grid as a LaTeX tabular (packages booktabs and amssymb)."""
    lines = [
        f'% {grid.heading}',
        rf'\begin{{tabular}}{{l{"c" * len(grid.columns)}}}',
        r'\toprule',
        ' & '.join(['', *map(escaped, grid.columns)]) + r' \\',
        r'\midrule',
    ]
    for line, cells in grid.lines.items():
        if line == 'average':
            lines.append(r'\midrule')
        cells = [text.removeprefix(r'\\ ') for text in cells]
        stacked = [rf'\shortstack{{{text}}}' if r'\\' in text else text for text in cells]
        lines.append(' & '.join([escaped(line), *map(escaped, stacked)]) + r' \\')
    note = rf'\par {{\footnotesize {escaped(grid.note)}}}'
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', note, ''])


def escaped(text: str) -> str:
    """Returns a text for LaTeX; the commands in it stay."""
    return text.translate(str.maketrans(LATEX_SIGNS))


def as_csv(
    final: Table, steady: Table, steps: Mapping[str, Mapping[str, Sequence[float | None]]]
) -> str:
    """Returns CSV, a row for each entry.

    Args:
        final: the table.
        steady: of the same entries, the means of the last three evaluations.
        steps: online ones to 95% success, of seeds by line and column; None: it never got there.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(
        ['phase', 'task', 'method', 'mean', 'std', 'seeds', 'low95', 'high95', 'planned_seeds',
         'published_mean', 'published_std', 'last3_mean', 'last3_std', 'steps_to_95', 'seeds_to_95']
    )  # fmt: skip
    for phase, lines in final.lines.items():
        for line, entries in lines.items():
            for name, number in entries.items():
                mean, std, _ = number.published or ('', '', '')
                mine = steps.get(line, {}).get(name, ()) if phase == 'online' else ()
                reached = [step for step in mine if step is not None]
                writer.writerow(
                    [phase, line, name, *_csv_cells(number), len(number.values),
                     *(number.interval or ('', '')), number.planned, mean, std,
                     *_csv_cells(steady.lines[phase][line][name]),
                     np.median(reached) if reached else '', len(reached) if mine else '']
                )  # fmt: skip
    return out.getvalue()


def _csv_cells(number: Number) -> list[str]:
    return [f'{number.mean:.2f}', f'{number.std:.2f}'] if number.values else ['', '']
