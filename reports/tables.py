"""Tables in the paper's layout: our numbers, with the published ones beside them.

A cell is the mean ± the standard deviation (n − 1) over seeds. The best of a line is bold, the
second best underlined. Cells without a run stay empty; those with fewer seeds than planned say so.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Number:
    """The entry of a table.

    Attributes:
        values: of each seed, %.
        planned: how many seeds there shall be.
        published: mean and std in the paper, %, of which the std may be missing; None: neither is.
    """

    values: tuple[float, ...]
    planned: int
    published: tuple[float, float | None] | None = None

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
        title: what it shows.
        columns: their names.
        lines: by phase and line, the entry of each column; None if there never is one.
    """

    title: str
    columns: list[str]
    lines: dict[str, dict[str, dict[str, Number | None]]]


# ---- as text ------------------------------------------------------------------------------------


def ranks(entries: Mapping[str, Number | None]) -> dict[str, int]:
    """Returns 1 for the best columns of a line and 2 for the second best."""
    means = {name: round(n.mean, 1) for name, n in entries.items() if n and n.values}
    order = sorted(set(means.values()), reverse=True)[:2]
    return {name: order.index(mean) + 1 for name, mean in means.items() if mean in order}


def markdown(table: Table) -> str:
    """Returns Markdown: ours, and (paper: …) with ✓ where the published mean is in our interval."""
    parts = []
    for phase in table.lines:
        lines = ['| | ' + ' | '.join(table.columns) + ' |', '|---' * (len(table.columns) + 1) + '|']
        for line, entries in table.lines[phase].items():
            best = ranks(entries)
            cells = [cell(entries[name], best.get(name)) for name in table.columns]
            lines.append(f'| {line} | ' + ' | '.join(cells) + ' |')
        parts.append(f'End of the {phase} phase, success in %\n\n' + '\n'.join(lines))
    return f'### {table.title}\n\n' + '\n\n'.join(parts) + '\n'


class Markup(NamedTuple):
    """How a cell is written: what is put around the parts that it may have."""

    best: str = '**{}**'
    second: str = '<u>{}</u>'
    missing: str = ' [{}]'
    published: str = ' ({})'


MARKDOWN = Markup()


def cell(number: Number | None, rank: int | None, markup: Markup = MARKDOWN) -> str:
    """Returns an entry as text: ours, how many seeds are missing, and the paper's.

    Args:
        number: the entry; None is an empty cell.
        rank: 1 for the best of its line, 2 for the second best.
        markup: of the text.
    """
    if number is None:
        return ''
    text = ''
    if number.values:
        text = f'{number.mean:.1f} ± {number.std:.1f}'
        text = {1: markup.best, 2: markup.second}.get(rank or 0, '{}').format(text)
        if len(number.values) < number.planned:
            text += markup.missing.format(f'{len(number.values)} of {number.planned} seeds')
    if number.published:
        mean, std = number.published
        published = f'paper {mean:.1f}' if std is None else f'paper {mean:.1f} ± {std:.1f}'
        text += markup.published.format(published + agrees(number))
    return text.strip()


def agrees(number: Number) -> str:
    """Says whether the published mean lies in the interval of ours: ' ✓', ' ✗', or nothing."""
    if number.interval is None or number.published is None:
        return ''
    low, high = number.interval
    return ' ✓' if low <= number.published[0] <= high else ' ✗'


def latex(table: Table) -> str:
    """Returns a LaTeX tabular (package booktabs) of our numbers."""
    parts = []
    for phase in table.lines:
        lines = [
            f'% {table.title}; end of the {phase} phase',
            rf'\begin{{tabular}}{{l{"c" * len(table.columns)}}}',
            r'\toprule',
            ' & '.join(['', *map(_escaped, table.columns)]) + r' \\',
            r'\midrule',
        ]
        for line, entries in table.lines[phase].items():
            best = ranks(entries)
            cells = [_latex_cell(entries[name], best.get(name)) for name in table.columns]
            if line == 'average':
                lines.append(r'\midrule')
            lines.append(' & '.join([_escaped(line), *cells]) + r' \\')
        parts.append('\n'.join([*lines, r'\bottomrule', r'\end{tabular}']))
    return '\n\n'.join(parts) + '\n'


def _latex_cell(number: Number | None, rank: int | None) -> str:
    if number is None or not number.values:
        return ''
    text = rf'{number.mean:.1f} \pm {number.std:.1f}'
    text = {1: rf'\mathbf{{{text}}}', 2: rf'\underline{{{text}}}'}.get(rank or 0, text)
    missing = number.planned - len(number.values)
    return f'${text}$' + (rf'\,[{len(number.values)}/{number.planned}]' if missing else '')


def _escaped(text: str) -> str:
    return text.replace('_', r'\_').replace('%', r'\%').replace('&', r'\&')


def as_csv(table: Table) -> str:
    """Returns CSV: phase, task, method, mean, std, seeds, interval, published."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(
        ['phase', 'task', 'method', 'mean', 'std', 'seeds', 'low95', 'high95', 'planned_seeds',
         'published_mean', 'published_std']
    )  # fmt: skip
    for phase, lines in table.lines.items():
        for line, entries in lines.items():
            for name, number in entries.items():
                if number is None:
                    continue
                ours = [f'{number.mean:.2f}', f'{number.std:.2f}'] if number.values else ['', '']
                low, high = number.interval or ('', '')
                writer.writerow(
                    [phase, line, name, *ours, len(number.values), low, high, number.planned,
                     *(number.published or ('', ''))]
                )  # fmt: skip
    return out.getvalue()
