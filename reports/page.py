"""A page with tables and curves, in one file that opens without a network."""

import html as markup
from collections.abc import Mapping, Sequence

import plotly.graph_objects as graph
import plotly.io

from reports.style import colours
from reports.tables import Grid, Markup

MARKUP = Markup(
    '<b>{}</b>',
    '<u>{}</u>',
    '<span class="missing">{}</span>',
    '<span class="paper">{}</span>',
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.about th, .about td { text-align: left; vertical-align: top; }
.about span { white-space: nowrap; }
.paper { color: #777; display: block; font-size: 12px; }
.missing { color: #a60; display: block; font-size: 12px; }
.note { background: #f4f4f4; padding: .6rem 1rem; }
"""


def html(
    title: str,
    notes: Sequence[str],
    grids: Sequence[Grid],
    figure: str,
    about: Mapping[str, Sequence[Mapping[str, str]]],
) -> str:
    """Returns the page.

    Args:
        title: of it.
        notes: above the tables.
        grids: the tables; their cells are in `MARKUP`.
        figure: of `curves`.
        about: how the results came to be: lines of texts by their headings, in named tables.
    """
    title = markup.escape(title)
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<style>{STYLE}</style></head><body><h1>{title}</h1>',
        *(f'<p class="note">{markup.escape(note)}</p>' for note in notes),
    ]
    for grid in grids:
        parts += [f'<h2>{markup.escape(grid.heading)}</h2>', _table(grid)]
    parts += ['<h2>Curves</h2>', figure]
    for name, rows in about.items():
        parts += [f'<h2>{name}</h2>', _about(rows)]
    return '\n'.join([*parts, '</body></html>\n'])


def _table(grid: Grid) -> str:
    lines = ['<table><tr><th></th>', *(f'<th>{markup.escape(c)}</th>' for c in grid.columns)]
    lines.append('</tr>')
    for line, cells in grid.lines.items():
        lines.append(f'<tr><td>{markup.escape(line)}</td>')
        lines += [f'<td>{text}</td>' for text in cells]
        lines.append('</tr>')
    return ''.join([*lines, f'</table><p>{markup.escape(grid.note)}</p>'])


def curves(columns: Sequence[str], tasks: Sequence[str], found: Mapping[str, Mapping]) -> str:
    """Returns the figure of one task at a time, with a menu of tasks; the legend hides methods.

    Args:
        columns: methods, all that have a colour.
        tasks: in their order.
        found: curves of tasks and methods, where there are any.
    """
    tasks = [task for task in tasks if task in found]
    if not tasks:
        return '<p>No results yet.</p>'
    palette, figure, owners = colours(columns), graph.Figure(), []
    for task in tasks:
        for row, curve in found[task].items():
            shown = task == tasks[0]
            band = curve.band()
            if band is not None:
                low, high = band
                steps = [*curve.steps, *curve.steps[::-1]]
                figure.add_scatter(
                    x=steps, y=[*high, *low[::-1]], fill='toself', fillcolor=palette[row],
                    opacity=0.18, line={'width': 0}, legendgroup=row, showlegend=False,
                    hoverinfo='skip', visible=shown,
                )  # fmt: skip
                owners.append(task)
            figure.add_scatter(
                x=curve.steps, y=curve.mean, name=row, legendgroup=row, visible=shown,
                mode='lines+markers', line={'color': palette[row]}, marker={'size': 4},
                hovertemplate='%{y:.1f}% at %{x:.3f}M',
            )  # fmt: skip
            owners.append(task)
    buttons = [
        {'label': task, 'method': 'update', 'args': [{'visible': [o == task for o in owners]},
         {'shapes': _shade(found[task])}]}
        for task in tasks
    ]  # fmt: skip
    figure.update_layout(
        updatemenus=[{'buttons': buttons, 'x': 0, 'xanchor': 'left', 'y': 1.15, 'yanchor': 'top'}],
        shapes=_shade(found[tasks[0]]),
        template='plotly_white', height=560, hovermode='x unified',
        xaxis={'title': 'updates (offline), then environment steps (online), millions'},
        yaxis={'title': 'success (%)', 'range': [-3, 103]},
    )  # fmt: skip
    return plotly.io.to_html(figure, include_plotlyjs=True, full_html=False, div_id='curves')


def _shade(curves: Mapping) -> list[dict]:
    boundary = max(curve.boundary for curve in curves.values())
    shape = {'type': 'rect', 'x0': 0, 'x1': boundary, 'y0': 0, 'y1': 1, 'yref': 'paper'}
    return [shape | {'fillcolor': '#eee', 'layer': 'below', 'line': {'width': 0}}]


def _about(rows: Sequence[Mapping[str, str]]) -> str:
    names = ''.join(f'<th>{markup.escape(name)}</th>' for name in rows[0])
    lines = [f'<table class="about"><tr>{names}</tr>']
    for row in rows:
        cells = ''.join(f'<td>{_words(text)}</td>' for text in row.values())
        lines.append(f'<tr>{cells}</tr>')
    return ''.join([*lines, '</table>'])


def _words(text: str) -> str:
    """Returns a text whose lines end between words, not after the hyphens of a flag."""
    return ' '.join(f'<span>{markup.escape(word)}</span>' for word in text.split(' '))
