"""Learning curves, and the table of their final scores."""

import numpy as np
import pandas as pd
import pytest
from result_files import ROWS, seeds_from, write_run

from reports import curves, runs

METHODS = ['BFN', 'QC-BFN', 'FQL', 'QC-FQL', 'MVP w/ top-K', 'DFP w/o top-K', 'DFP']


def scores_of(*folders):
    return curves.labelled(runs.scores(runs.read(folders, pytest.fail), pytest.fail))


def test_a_curve_is_the_mean_over_seeds_through_both_phases_with_an_interval(tmp_path):
    table = curves.curves(scores_of(write_run(tmp_path / 'a')))
    assert table['total_step'].tolist() == [0, 5, 12]
    np.testing.assert_allclose(table[['mean', 'low', 'high']], [[5, 0, 10], [30, 20, 40],
                                                                [80, 70, 90]])  # fmt: skip
    alone = scores_of(write_run(tmp_path / 'b', [row for row in ROWS if row[2] == 0]))
    assert curves.curves(alone)[['low', 'high']].isna().all(axis=None)


def test_the_table_has_the_end_of_each_phase_seed_by_seed(tmp_path):
    scores = scores_of(write_run(tmp_path / 'a'))
    assert curves.summary(scores).splitlines() == [
        '|  | end of offline, % | end of online, % |',
        '|---|---|---|',
        '| DFP | 30.0 ± 14.1 (20, 40) | 80.0 ± 14.1 (90, 70) |',
    ]
    alone = scores_of(write_run(tmp_path / 'b', ROWS[:1]))
    assert curves.summary(alone).splitlines()[-1] == '| DFP | 10.0 |  |'


def test_runs_on_other_data_or_of_other_settings_have_lines_of_their_own(tmp_path):
    folders = [
        write_run(tmp_path / 'a', data='one'),
        write_run(tmp_path / 'b', seeds_from(10), data='one'),
        write_run(tmp_path / 'c', data='two'),
        write_run(tmp_path / 'd', method='MVP'),
    ]
    scores = scores_of(*folders)
    found = scores.groupby('method')['seed'].unique().map(list)
    assert found.to_dict() == {'DFP, one': [0, 1, 10, 11], 'DFP, two': [0, 1], 'MVP': [0, 1]}


@pytest.mark.parametrize('count', [0, 1, 4])
def test_the_legend_names_what_is_drawn_and_has_room(count):
    tasks = [f'task {i}' for i in range(max(count, 1))]
    names = ['source', 'task', 'method', 'total_step', 'mean']
    rows = [(source, tasks[0], method, step, step) for source in ('DFP', 'QC')
            for method in METHODS[:6] for step in (0, 50)]  # fmt: skip
    rows.append(('QAM', 'another task', 'DFP', 0, 0))
    published = pd.DataFrame(rows if count else [], columns=names)
    figure = curves.draw(runs.scores(runs.read([])), tasks, METHODS, published)
    figure.draw_without_rendering()
    if not count:
        assert not figure.legends
        return
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [*METHODS[:6], 'published, DFP paper', 'published, QC']
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= min(axis.bbox.y0 for axis in figure.axes)
