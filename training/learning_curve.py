"""The learning curve of one run, from its `eval.csv`. `reports` compares several runs."""

import csv
import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter


def draw(table: pathlib.Path, picture: pathlib.Path, title: str) -> None:
    """Draws the score of each seed (thin) and their mean against steps; the offline phase is grey.

    Args:
        table: `eval.csv`; the score is `success` if some row has it, else `return`.
        picture: PNG to write.
        title: of the picture.
    """
    with table.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    score = 'success' if any(row.get('success') for row in rows) else 'return'
    boundary = max((int(row['step']) for row in rows if row['phase'] == 'offline'), default=0)
    points: dict[int, dict[str, float]] = {}
    for row in rows:
        step = int(row['step']) + (boundary if row['phase'] == 'online' else 0)
        points.setdefault(step, {})[row['seed']] = float(row[score] or 'nan')
    steps = sorted(points)
    values = np.array([list(points[step].values()) for step in steps])  # [T, seeds]
    figure = Figure(figsize=(6.4, 4.0), layout='constrained')
    axes = figure.subplots()
    if score == 'success':
        values = 100 * values
        axes.set_ylim(-3, 103)
    if values.shape[1] > 1:
        axes.plot(steps, values, color='#0072B2', linewidth=0.8, alpha=0.4)
        title += f', mean of {values.shape[1]} seeds'
    axes.plot(steps, values.mean(axis=1), color='#0072B2', marker='o', markersize=3)
    axes.axvspan(0, boundary, color='0.92', zorder=0)
    axes.set_ylabel('success (%)' if score == 'success' else score)
    axes.set_xlabel('updates (offline, grey), then environment steps (online)')
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=11)
    figure.savefig(picture, dpi=150)
