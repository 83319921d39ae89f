"""The results of runs, in one long table."""

import pathlib

import pandas as pd
import pytest
from result_files import ROWS, seeds_from, write_run

from reports import runs
from utils.errors import UserError

RESULTS = pathlib.Path(__file__).parent.parent / 'results'


def points(table, *names):
    return table[list(names)].apply(tuple, axis=1).tolist()


def test_a_run_is_a_row_for_each_number_and_online_steps_count_on(tmp_path):
    table = runs.read([write_run(tmp_path / 'a' / 'b', data='1234')], pytest.fail)
    assert list(table) == runs.COLUMNS
    assert points(table[table['seed'] == 0], 'phase', 'step', 'total_step', 'value') == [
        ('offline', 0, 0, 0.1), ('offline', 5, 5, 0.2), ('online', 0, 5, 0.2),
        ('online', 7, 12, 0.9),
    ]  # fmt: skip
    about = {'method': 'DFP', 'task': 'cube-double', 'identity': 'aaaaaaaa', 'data': '1234',
             'metric': 'success', 'run': str(tmp_path / 'a' / 'b'), 'commit': '123',
             'device': 'a machine', 'versions': 'jax 1.2; python 3.11'}  # fmt: skip
    assert table[list(about)].drop_duplicates().to_dict('records') == [about]


def test_a_damaged_file_costs_one_line_and_the_damaged_rows(tmp_path):
    folder = write_run(tmp_path / 'run', [*ROWS[:3], ('offline', 5, 1, 'nan')])
    with (folder / 'eval.csv').open('a') as file:
        file.write('offline,9\nonline,x,0,0.2\nonline,7,0,0.\0\0\0')
    lines = []
    table = runs.read([folder], lines.append)
    assert points(table, 'step', 'seed') == [(0, 0), (0, 1), (5, 0)]
    (line,) = lines
    assert line == f'{folder}: 4 rows or cells are damaged or not finite; skipped'
    (folder / 'eval.csv').write_bytes(b'\0' * 100)
    (folder / 'flags.json').write_bytes(b'\0' * 100)
    assert runs.read([folder], lines.append).empty
    assert lines[-1] == f'{folder}: no results; skipped'


def test_what_cannot_be_averaged_is_named_and_left_out(tmp_path):
    good = write_run(tmp_path / 'DFP-sd000-001-aaaaaaaa')
    copies = [write_run(tmp_path / f'{good.name}-{i}') for i in (2, 10)]
    left = write_run(tmp_path / 'DFP-sd020-021-aaaaaaaa', seeds_from(20), status='interrupted')
    empty = write_run(tmp_path / 'DFP-sd030-aaaaaaaa', [])
    lines = []
    table = runs.read([*copies, good, left, empty, tmp_path / 'none'], lines.append)
    assert {*table['run']} == {str(copies[1])}
    assert {*runs.read([left], pytest.fail, unfinished=True)['seed']} == {20, 21}
    expected = {
        good: 'a newer run has the same seeds', copies[0]: 'a newer run has the same seeds',
        left: 'unfinished (interrupted)', empty: 'no results', tmp_path / 'none': 'no results',
    }  # fmt: skip
    assert sorted(lines) == sorted(f'{path}: {why}; skipped' for path, why in expected.items())


def test_seeds_are_averaged_only_where_all_of_them_are(tmp_path):
    """Seed 10 was killed; a row of seed 20 is lost."""
    rows = [*ROWS, *seeds_from(10, [row for row in ROWS[:4] if row[2] == 0])]
    rows += seeds_from(20, [row for row in ROWS if row[2] == 0 and row[:2] != ('offline', 5)])
    lines = []
    scores = runs.scores(runs.read([write_run(tmp_path / 'run', rows)]), lines.append)
    assert {*scores['seed']} == {0, 1, 20}
    assert {*points(scores, 'phase', 'step')} == {('offline', 0), ('online', 0), ('online', 7)}
    (line,) = lines
    assert line.startswith('DFP, cube-double: seeds [10] end before the others, steps [5] lack')


def test_steps_that_only_few_seeds_were_trained_further_to_are_left_out(tmp_path):
    further = [*ROWS, *seeds_from(10), ('online', 14, 0, 1.0)]
    lines = []
    scores = runs.scores(runs.read([write_run(tmp_path / 'run', further)]), lines.append)
    assert {*scores['seed']} == {0, 1, 10, 11}
    assert scores['total_step'].max() == 12
    assert lines == ['DFP, cube-double: steps [19] lack a seed; skipped']


def test_a_task_without_success_has_the_return_as_its_score(tmp_path):
    folders = [write_run(tmp_path / 'a'), write_run(tmp_path / 'maze' / 'FQL-sd0', score='return')]
    (folders[1] / 'flags.json').unlink()
    scores = runs.scores(runs.read(folders, pytest.fail), pytest.fail)
    ends = scores[(scores['seed'] == 0) & (scores['step'] == 7)]
    assert points(ends, 'task', 'metric', 'value') == [
        ('cube-double', 'success', 90), ('maze', 'return', 0.9),
    ]  # fmt: skip
    assert runs.score_name(ends['metric'][:1]) == 'success (%)'
    assert runs.score_name(ends['metric'][1:]) == 'return'
    assert runs.score_name(ends['metric']) == 'score'


def test_a_newer_run_takes_the_place_of_an_older_one_whole(tmp_path):
    """Also where it was evaluated at fewer steps. Gathering again changes nothing."""
    path = tmp_path / 'results.csv'
    table = runs.read([write_run(tmp_path / 'a')])
    assert runs.gather(path, table) == runs.gather(path, table) == 8
    again = runs.read_results(path, pytest.fail)
    pd.testing.assert_frame_equal(
        again.sort_values(['seed', 'total_step', 'phase'], ignore_index=True).drop(columns='run'),
        table.sort_values(['seed', 'total_step', 'phase'], ignore_index=True).drop(columns='run'),
        check_dtype=False,
    )
    newer = write_run(tmp_path / 'b', [('offline', 5, 0, 0.5), ('online', 7, 0, 0.8)], data='2')
    assert runs.gather(path, runs.read([newer])) == 4 + 2
    table = runs.read_results(path)
    assert points(table[table['seed'] == 0], 'step', 'value', 'data') == [
        (5, 0.5, '2'), (7, 0.8, '2'),
    ]  # fmt: skip


def test_the_results_that_are_kept_can_be_read_and_gathered(tmp_path):
    tables = list(RESULTS.glob('*/*/eval.csv'))
    assert tables
    assert runs.read(tables, pytest.fail)['run'].nunique() == len(tables)
    assert len(runs.read_results(RESULTS / 'fields.csv', pytest.fail))
    text = (RESULTS / 'small.csv').read_text()
    (tmp_path / 'small.csv').write_text(text)
    table = runs.read_results(RESULTS / 'small.csv', pytest.fail)
    assert runs.scores(table, pytest.fail)['value'].count() == len(text.splitlines()) - 1
    runs.gather(tmp_path / 'small.csv', table[table['method'] == 'MVP'])
    assert (tmp_path / 'small.csv').read_text() == text


def test_other_files_are_refused_as_results(tmp_path):
    other = tmp_path / 'other.csv'
    other.write_text('a,b\n1,2\n')
    with pytest.raises(UserError, match=r'other.csv: has no column method'):
        runs.read_results(other)
