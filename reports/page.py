"""A page with tables and curves, in one file that opens without a network."""

import html as markup
from collections.abc import Mapping, Sequence

import plotly.graph_objects as graph
import plotly.io

from reports.style import colours
from reports.tables import Markup, Table, cell, ranks

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
.paper { color: #777; display: block; font-size: 12px; }
.missing { color: #a60; display: block; font-size: 12px; }
.note { background: #f4f4f4; padding: .6rem 1rem; }
"""


def html(
    table: Table,
    tasks: Sequence[str],
    curves: Mapping[str, Mapping],
    how: Sequence[Mapping[str, str]],
    notes: Sequence[str],
) -> str:
    """Returns the page.

    Args:
        table: at the top.
        tasks: in their order.
        curves: of tasks and columns, where there are any.
        how: a line for each column of how it came to be: texts by their headings.
        notes: above the table.
    """
    title = markup.escape(table.title)
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<style>{STYLE}</style></head><body><h1>{title}</h1>',
        *(f'<p class="note">{markup.escape(note)}</p>' for note in notes),
    ]
    for phase in table.lines:
        parts += [f'<h2>End of the {phase} phase, success in %</h2>', _table(table, phase)]
    parts += ['<h2>Curves</h2>', _curves(table.columns, tasks, curves), '<h2>How</h2>', _how(how)]
    return '\n'.join([*parts, '</body></html>\n'])


def _table(table: Table, phase: str) -> str:
    lines = ['<table><tr><th></th>', *(f'<th>{markup.escape(c)}</th>' for c in table.columns)]
    lines.append('</tr>')
    for line, entries in table.lines[phase].items():
        best = ranks(entries)
        lines.append(f'<tr><td>{markup.escape(line)}</td>')
        lines += [
            f'<td>{cell(entries[name], best.get(name), MARKUP)}</td>' for name in table.columns
        ]
        lines.append('</tr>')
    return ''.join([*lines, '</table>'])


def _curves(columns: Sequence[str], tasks: Sequence[str], curves: Mapping[str, Mapping]) -> str:
    """Returns the figure of one task at a time, with a menu of tasks; the legend hides methods."""
    tasks = [task for task in tasks if task in curves]
    if not tasks:
        return '<p>No results yet.</p>'
    palette, figure, owners = colours(columns), graph.Figure(), []
    for task in tasks:
        for row, curve in curves[task].items():
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
         {'shapes': _shade(curves[task])}]}
        for task in tasks
    ]  # fmt: skip
    figure.update_layout(
        updatemenus=[{'buttons': buttons, 'x': 0, 'xanchor': 'left', 'y': 1.15, 'yanchor': 'top'}],
        shapes=_shade(curves[tasks[0]]),
        template='plotly_white', height=560, hovermode='x unified',
        xaxis={'title': 'updates (offline), then environment steps (online), millions'},
        yaxis={'title': 'success (%)', 'range': [-3, 103]},
    )  # fmt: skip
    return plotly.io.to_html(figure, include_plotlyjs=True, full_html=False, div_id='curves')


def _shade(curves: Mapping) -> list[dict]:
    boundary = max(curve.boundary for curve in curves.values())
    shape = {'type': 'rect', 'x0': 0, 'x1': boundary, 'y0': 0, 'y1': 1, 'yref': 'paper'}
    return [shape | {'fillcolor': '#eee', 'layer': 'below', 'line': {'width': 0}}]


def _how(rows: Sequence[Mapping[str, str]]) -> str:
    lines = ['<table><tr>', *(f'<th>{markup.escape(name)}</th>' for name in rows[0]), '</tr>']
    for row in rows:
        cells = ''.join(f'<td>{markup.escape(text)}</td>' for text in row.values())
        lines.append(f'<tr>{cells}</tr>')
    return ''.join([*lines, '</table>'])
