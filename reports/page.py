"""A page with tables and curves, in one HTML file that opens offline."""

import base64
import html as markup
from collections.abc import Mapping, Sequence

import pandas as pd

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
img { max-width: 100%; }
.note { background: #f4f4f4; padding: .6rem 1rem; }
"""


def html(
    title: str,
    notes: Sequence[str],
    grids: Sequence[Grid],
    curves: bytes,
    about: Mapping[str, pd.DataFrame],
) -> str:
    """Returns the page.

    Args:
        title: of the page.
        notes: paragraphs above the tables.
        grids: the tables; their cells are in `MARKUP`.
        curves: a picture, PNG.
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
    picture = base64.b64encode(curves).decode()
    parts += ['<h2>Curves</h2>', f'<img src="data:image/png;base64,{picture}" alt="curves">']
    for name, texts in about.items():
        table = texts.map(_words).to_html(escape=False, border=0, index=False, classes='about')
        parts += [f'<h2>{name}</h2>', table]
    return '\n'.join([*parts, '</body></html>\n'])


def _words(text: str) -> str:
    """Returns a text whose lines break between words, not after a flag's hyphens."""
    return ' '.join(f'<span>{markup.escape(word)}</span>' for word in text.split(' '))
