"""Tables in the paper's layout, with our numbers beside the published ones.

A cell is the mean ± the standard deviation (n − 1) over seeds. The best of a row is bold, the
second best underlined. Cells without a run are empty; those with fewer seeds than planned say so.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reports import aggregates


class Markup(NamedTuple):
    """Format strings for the parts of a cell."""

    best: str
    second: str
    missing: str
    published: str


MARKDOWN = Markup('**{}**', '<u>{}</u>', ' [{}]', ' ({})')
LATEX = Markup(r'\textbf{{{}}}', r'\underline{{{}}}', ' [{}]', r'\\ {{\scriptsize ({})}}')
LATEX_SIGNS = {
    **{sign: rf'\{sign}' for sign in '_%&'},
    **{'±': r'$\pm$', '✓': r'$\checkmark$', '✗': r'$\times$', 'λ': r'$\lambda$'},
}


class Grid(NamedTuple):
    """A table of texts: its heading, its cells by row and column, and a note below."""

    heading: str
    cells: pd.DataFrame
    note: str


def statistics(values: Sequence[float], published: float | None = None) -> dict[str, Any]:
    """Returns mean, std (n − 1; 0 for one seed), seeds, and the mean's 95% bootstrap interval.

    `agrees` is whether the published mean lies in the interval. Unknown entries are None.
    """
    found = dict.fromkeys(['mean', 'std', 'seeds', 'low95', 'high95', 'agrees'])
    found['seeds'] = len(values)
    if len(values):
        found |= {'mean': np.mean(values), 'std': 0.0}
    if len(values) > 1:
        low, high = aggregates.interval(aggregates.mean, [np.array(values)])
        found |= {'std': np.std(values, ddof=1), 'low95': low, 'high95': high}
        found['agrees'] = None if published is None else low <= published <= high
    return found


def grid(entries: pd.DataFrame, heading: str, markup: Markup) -> Grid:
    """Returns the texts of a table.

    Args:
        entries: one row per cell: task, method, the keys of `statistics`, planned_seeds, and
            optionally published_mean and published_std.
        heading: above the table.
        markup: of the cells.
    """
    means = entries['mean'].astype(float).round(1)
    ranks = means.groupby(entries['task']).rank(method='dense', ascending=False)
    texts = [
        cell(entry, rank, markup)
        for (_, entry), rank in zip(entries.iterrows(), ranks, strict=True)
    ]
    cells = entries.assign(text=texts).pivot(index='task', columns='method', values='text')
    cells = cells.reindex(entries['task'].unique(), columns=entries['method'].unique())
    note = f'± is the standard deviation (n - 1) over {entries["planned_seeds"].max()} seeds'
    if entries['seeds'].between(1, entries['planned_seeds'] - 1).any():
        note += '; cells with fewer say so'
    return Grid(heading, cells.rename_axis(index=None, columns=None), f'{note}.')


def cell(entry: pd.Series, rank: float, markup: Markup) -> str:
    """Returns an entry as text: our number, missing seeds, and the paper's number.

    Args:
        entry: a row of `entries` in `grid`.
        rank: 1 for the best of its row, 2 for the second best.
        markup: of the text.
    """
    text = ''
    if entry['seeds']:
        text = f'{entry["mean"]:.1f} ± {entry["std"]:.1f}'
        text = {1: markup.best, 2: markup.second}.get(rank, '{}').format(text)
        if entry['seeds'] < entry['planned_seeds']:
            text += markup.missing.format(f'{entry["seeds"]} of {entry["planned_seeds"]} seeds')
    if pd.notna(entry.get('published_mean')):
        published = f'paper {entry["published_mean"]:.1f}'
        if pd.notna(entry['published_std']):
            published += f' ± {entry["published_std"]:.1f}'
        sign = {True: ' ✓', False: ' ✗'}.get(entry['agrees'], '')
        text += markup.published.format(published + sign)
    return text.strip()


def markdown(grid: Grid) -> str:
    """Returns a grid in Markdown."""
    return f'## {grid.heading}\n\n{lines(grid.cells)}\n\n{grid.note}\n'


def lines(cells: pd.DataFrame) -> str:
    """Returns a table of texts in Markdown."""
    head = ['', *cells.columns]
    rows = [f'| {" | ".join(line)} |' for line in [head, *cells.itertuples(name=None)]]
    return '\n'.join([rows[0], '|---' * len(head) + '|', *rows[1:]])


def latex(grid: Grid) -> str:
    """Returns a grid as a LaTeX tabular (packages booktabs and amssymb)."""
    rows = []
    for line, *texts in grid.cells.itertuples(name=None):
        texts = [text.removeprefix(r'\\ ') for text in texts]
        texts = [rf'\shortstack{{{text}}}' if r'\\' in text else text for text in texts]
        rule = '\\midrule\n' if line == 'average' else ''
        rows.append(f'{rule}{" & ".join(map(escaped, [line, *texts]))} \\\\')
    columns = grid.cells.columns
    return '\n'.join(
        [
            f'% {grid.heading}',
            rf'\begin{{tabular}}{{l{"c" * len(columns)}}}',
            rf'\toprule {" & ".join(["", *map(escaped, columns)])} \\ \midrule',
            *rows,
            r'\bottomrule \end{tabular}',
            rf'\par {{\footnotesize {escaped(grid.note)}}}',
            '',
        ]
    )


def escaped(text: str) -> str:
    """Escapes a text for LaTeX; keeps commands in it."""
    return text.translate(str.maketrans(LATEX_SIGNS))
