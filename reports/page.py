"""A page with tables and curves, in one HTML file that opens offline."""

import html as markup
import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as graph
import plotly.io

from reports import curves, runs
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
    about: Mapping[str, pd.DataFrame],
) -> str:
    """Returns the page.

    Args:
        title: of the page.
        notes: paragraphs above the tables.
        grids: the tables; their cells are in `MARKUP`.
        figure: from `figure`.
        about: how the results were made: tables of texts by heading.
    """
    title = markup.escape(title)
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<style>{STYLE}</style></head><body><h1>{title}</h1>',
        *(f'<p class="note">{markup.escape(note)}</p>' for note in notes),
    ]
    for grid in grids:
        cells = grid.cells.rename(index=markup.escape, columns=markup.escape)
        table = cells.to_html(escape=False, border=0, bold_rows=False)
        note = f'<p>{markup.escape(grid.note)}</p>'
        parts += [f'<h2>{markup.escape(grid.heading)}</h2>', table, note]
    parts += ['<h2>Curves</h2>', figure]
    for name, texts in about.items():
        table = texts.map(_words).to_html(escape=False, border=0, index=False, classes='about')
        parts += [f'<h2>{name}</h2>', table]
    return '\n'.join([*parts, '</body></html>\n'])


def _words(text: str) -> str:
    """Returns a text whose lines break between words, not after a flag's hyphens."""
    return ' '.join(f'<span>{markup.escape(word)}</span>' for word in text.split(' '))


def figure(scores: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str]) -> str:
    """Returns the curves of one task at a time, with a menu of tasks; the legend hides methods.

    Args:
        scores: see `runs.scores`.
        tasks: in the order of the menu.
        methods: that get a colour each.
    """
    found, palette = curves.curves(scores), colours(methods)
    tasks = [task for task in tasks if task in set(found['task'])]
    if not tasks:
        return '<p>No results yet.</p>'
    plot, owners = graph.Figure(), []
    lines = dict(list(found.groupby(['task', 'method'])))
    for task, method in (key for key in itertools.product(tasks, methods) if key in lines):
        line = lines[task, method]
        band = pd.concat([line[['total_step', 'low']], line[['total_step', 'high']][::-1]])
        edge = band['low'].fillna(band['high'])
        look = {'name': method, 'legendgroup': method, 'visible': task == tasks[0]}
        plot.add_scatter(
            **look, x=band['total_step'], y=edge, fill='toself', fillcolor=palette[method],
            opacity=0.18, line={'width': 0}, mode='lines', showlegend=False, hoverinfo='skip',
        )  # fmt: skip
        plot.add_scatter(
            **look, x=line['total_step'], y=line['mean'], mode='lines+markers',
            line={'color': palette[method]}, marker={'size': 4}, hovertemplate='%{y:.1f} at %{x}',
        )  # fmt: skip
        owners += [task, task]
    layouts = {task: _layout(scores[scores['task'] == task]) for task in tasks}
    buttons = [
        {'label': task, 'method': 'update',
         'args': [{'visible': [owner == task for owner in owners]}, layout]}
        for task, layout in layouts.items()
    ]  # fmt: skip
    plot.update_layout(
        updatemenus=[{'buttons': buttons, 'x': 0, 'xanchor': 'left', 'y': 1.15, 'yanchor': 'top'}],
        template='plotly_white', height=560, hovermode='x unified', **layouts[tasks[0]],
        xaxis={'title': 'updates (offline), then environment steps (online)'},
    )  # fmt: skip
    return plotly.io.to_html(plot, include_plotlyjs=True, full_html=False, div_id='curves')


def _layout(scores: pd.DataFrame) -> dict:
    """Returns the layout that depends on the task: the grey offline phase and the y axis."""
    score = runs.score_name(scores['metric'])
    axis = {'title': score, 'range': [-3, 103] if score.endswith('(%)') else None}
    shape = {'type': 'rect', 'x0': 0, 'x1': curves.boundary(scores), 'y0': 0, 'y1': 1}
    shape |= {'yref': 'paper', 'fillcolor': '#eee', 'layer': 'below', 'line': {'width': 0}}
    return {'shapes': [shape], 'yaxis': axis}
