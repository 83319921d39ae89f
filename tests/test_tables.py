"""Reports of a plan: tables by hand, missing and partial cells, pictures and a page."""

import csv
import dataclasses
import io
import itertools

import numpy as np
import pytest

from experiments.plans import TABLES, make_plan
from experiments.report import (
    curves_of,
    final,
    how,
    make_table,
    published_curves,
    scores_of,
    seeds_of,
    settings_of,
    speed_grid,
    speeds_of,
    write,
)
from reports import aggregates, panels, tables
from reports.results import COLUMNS, Seed, by_seed, merge, read
from reports.tables import Published
from utils.errors import UserError

TASKS = ['cube-double-play-singletask-task2-v0', 'cube-triple-play-singletask-task2-v0']
STEPS = ('--offline_steps=100', '--online_steps=300')
ROBOMIMIC = ['lift-mh-low_dim', 'square-mh-low_dim', 'can-mh-low_dim']
DOUBLE = [f'cube-double-play-singletask-task{i}-v0' for i in (2, 3, 4)]
IDENTITIES = {
    (cell.name, cell.task): cell.config.identity
    for table, tasks in (('1', TASKS), ('4', DOUBLE))
    for cell in make_plan(table, tasks=tasks, flags=STEPS).cells
}


def rows_of(method, task, offline, online):
    """Rows of results: successes in % of each seed at the end of the offline phase; online, lists
    of three evaluations."""
    about = {'return': 0, 'length': 0, 'seconds': 7200, 'commit': '1234567890',
             'identity': IDENTITIES[method, task], 'device': 'a machine',
             'versions': f'jax 0.{1 + (task == TASKS[1])}'}  # fmt: skip
    rows = []
    for seed, (end, later) in enumerate(zip(offline, online, strict=True)):
        points = [('offline', 100, end)]
        points += [('online', 100 * (i + 1), value) for i, value in enumerate(later)]
        rows += [
            {'method': method, 'task': task, 'seed': str(seed), 'phase': phase, 'step': str(step),
             'success': str(value / 100)} | about
            for phase, step, value in points
        ]  # fmt: skip
    return rows


@pytest.fixture
def plan():
    return make_plan('1', methods=['QC-BFN', 'MVP', 'DFP'], tasks=TASKS, seeds=3, flags=STEPS)


ROWS = [
    *rows_of('DFP', TASKS[0], (10, 20, 30), ([50, 95, 96], [60, 80, 98], [70, 90, 100])),
    *rows_of('DFP', TASKS[1], (0, 0, 0), ([0, 0, 40], [0, 0, 50], [0, 0, 60])),
    *rows_of('MVP', TASKS[0], (10, 20, 30), ([50, 80, 90], [50, 80, 90], [50, 80, 90])),
    *rows_of('MVP', TASKS[1], (0,), ([0, 0, 40],)),  # one seed of three
    *rows_of('QC-BFN', TASKS[0], (1, 1, 1), ([1, 2], [1, 2], [1, 2])),  # unfinished
]


def test_entries_are_mean_and_std_over_seeds_and_averages_over_tasks(plan):
    lines = make_table(plan, seeds_of(plan, ROWS)).lines['online']
    dfp = lines[TASKS[0]]['DFP']
    assert dfp.values == (96, 98, 100)
    assert (dfp.mean, dfp.std) == (98, 2)
    assert dfp.interval == (pytest.approx(96.67, abs=0.7), pytest.approx(99.33, abs=0.7))
    assert lines['average']['DFP'].values == (68, 74, 80)
    assert lines['average']['MVP'].values == (65,)
    steady = make_table(plan, seeds_of(plan, ROWS), last=3).lines['online']
    assert steady[TASKS[0]]['DFP'].values == pytest.approx((241 / 3, 238 / 3, 260 / 3))


def test_results_of_other_settings_are_not_those_of_a_plan():
    flags = (*STEPS, '--agent.batch_size=32')
    plan = make_plan('1', methods=['QC-BFN', 'MVP', 'DFP'], tasks=TASKS, seeds=3, flags=flags)
    seeds = seeds_of(plan, ROWS)
    assert curves_of(plan, seeds) == {}
    entries = make_table(plan, seeds).lines['online'][TASKS[0]]
    assert not any(number.values for number in entries.values())
    assert {row['device'] for row in how(plan, ROWS)} == {''}


def test_cells_say_what_is_missing(plan):
    (grid,) = tables.grids(make_table(plan, seeds_of(plan, ROWS)), '{}', tables.MARKDOWN)
    text = tables.markdown(grid)
    assert text.rstrip().endswith('over 3 seeds; cells with fewer say so.')
    line = next(x for x in text.splitlines() if x.startswith(f'| {TASKS[1]}'))
    cells = [cell.strip() for cell in line.split('|')[2:-1]]
    assert cells[0].startswith('(paper ')  # nothing of ours
    assert cells[1].startswith('<u>40.0 ± 0.0</u> [1 of 3 seeds] (paper')
    assert cells[2].startswith('**50.0 ± 10.0** (paper')


def test_the_published_number_is_beside_ours_and_judged(plan):
    number = make_table(plan, seeds_of(plan, ROWS)).lines['online'][TASKS[0]]['DFP']
    assert number.published is not None
    inside = dataclasses.replace(number, published=Published(98.0, 1.0))
    outside = dataclasses.replace(number, published=Published(80.0, 1.0))
    alone = dataclasses.replace(number, values=(98.0,))
    assert [tables.agrees(n) for n in (inside, outside, alone)] == [' ✓', ' ✗', '']


def test_numbers_that_the_paper_contradicts_are_not_judged():
    """Table 6, offline, square and can, of both DFP methods."""
    plan = make_plan('6', methods=['MVP', 'DFP w/o top-K', 'DFP'], tasks=ROBOMIMIC, flags=STEPS)
    offline = {
        cell: [Seed(i, {100: success}, {}) for i, success in enumerate((50, 52))]
        for cell in plan.cells
    }
    lines = make_table(plan, offline).lines['offline']
    judged = {
        (task, row)
        for task in ROBOMIMIC
        for row, number in lines[task].items()
        if number.published and tables.agrees(number)
    }
    assert judged == {(task, 'MVP') for task in ROBOMIMIC} | {
        (ROBOMIMIC[0], row) for row in ('DFP w/o top-K', 'DFP')
    }
    assert lines[ROBOMIMIC[1]]['DFP'].published[:2] == (77.6, 6.9)


def test_best_is_bold_and_second_underlined_also_when_tied():
    means = {'a': 90.04, 'b': 90.0, 'c': 80.0, 'd': 70.0}
    entries = {name: tables.Number((mean,), 1) for name, mean in means.items()}
    entries['e'] = tables.Number((), 1)
    assert tables.ranks(entries) == {'a': 1, 'b': 1, 'c': 2}


def test_latex_has_the_same_numbers_the_published_ones_and_the_marks(plan):
    (grid,) = tables.grids(make_table(plan, seeds_of(plan, ROWS)), '{}', tables.LATEX)
    text = tables.latex(grid)
    assert r'\textbf{98.0 $\pm$ 2.0}\\ {\scriptsize (paper ' in text
    assert r' $\times$)}' in text
    assert rf'{TASKS[1]} & {{\scriptsize (paper ' in text  # nothing of ours
    assert r'\underline{40.0 $\pm$ 0.0} [1 of 3 seeds]' in text
    assert r'$\pm$ is the standard deviation (n - 1) over 3 seeds; cells with fewer' in text
    assert tables.escaped(r'\textbf{a_b} ✓') == r'\textbf{a\_b} $\checkmark$'


def test_csv_has_all_that_the_tables_have(plan):
    seeds = seeds_of(plan, ROWS)
    final, steady = make_table(plan, seeds), make_table(plan, seeds, last=3)
    text = tables.as_csv(final, steady, speeds_of(plan, seeds))
    rows = {(row['task'], row['method']): row for row in csv.DictReader(io.StringIO(text))}
    assert len(rows) == 3 * 3  # with the average
    row = rows[TASKS[0], 'DFP']
    assert (row['mean'], row['std'], row['seeds']) == ('98.00', '2.00', '3')
    assert (row['last3_mean'], row['last3_std']) == ('82.11', '3.98')
    assert (row['steps_to_95'], row['seeds_to_95']) == ('300.0', '3')
    assert (rows[TASKS[0], 'MVP']['steps_to_95'], rows[TASKS[0], 'MVP']['seeds_to_95']) == ('', '0')
    assert rows[TASKS[1], 'QC-BFN']['mean'] == rows['average', 'DFP']['seeds_to_95'] == ''


def test_steps_to_95_percent_are_the_median_of_those_that_got_there(plan):
    grid = speed_grid(plan, speeds_of(plan, seeds_of(plan, ROWS)))
    assert grid.lines[TASKS[0]] == ['(0 of 3)', '(0 of 3)', '300 (3 of 3)']


def test_groups_are_means_of_their_tasks():
    plan = make_plan('4', methods=['K=1', 'K=4'], tasks=DOUBLE, seeds=2, flags=STEPS)
    rows = []
    for task, end in zip(DOUBLE, (10, 20, 60), strict=True):
        rows += rows_of('DFP top_k=1', task, (0, 0), ([0, 0, end], [0, 0, end + 3]))
    lines = make_table(plan, seeds_of(plan, rows)).lines['online']
    assert lines['cube-double']['K=1'].values == (30, 33)
    assert lines['cube-double']['K=4'].values == ()
    assert speeds_of(plan, seeds_of(plan, rows))['cube-double']['K=1'] == [None] * 6
    assert lines['cube-double']['K=1'].published is not None


def test_each_row_of_tables_1_to_4_has_the_published_curves_of_its_name():
    """Figure 3, of table 2, has one domain; QAM's FQL has chunks."""
    found, rows = published_curves(), set()
    for table in '1234':
        content = TABLES['paper'][table]
        rows |= set(content['rows'])
        for group in content['tasks'] if table != '2' else ['cube-triple']:
            for task, row in itertools.product(TABLES['tasks'][group], content['rows']):
                assert 'DFP' in [source for source, _ in found[task, row]]
    assert {row for _, row in found} == rows
    assert [source for source, _ in found[TASKS[0], 'QC-FQL']] == ['DFP', 'QC', 'QAM']
    assert [source for source, _ in found[TASKS[0], 'FQL']] == ['DFP', 'QC']


@pytest.mark.parametrize('count', [0, 1, 2, 4, 5])
def test_the_legend_names_what_is_drawn_and_has_room(count):
    tasks = [f'task {i}' for i in range(max(count, 1))]
    rows = ['BFN', 'QC-BFN', 'FQL', 'QC-FQL', 'MVP w/ top-K', 'DFP w/o top-K', 'DFP']
    points = np.array([[0.0, 1.0], [2.0, 50.0]])
    published = {(tasks[0], row): [('DFP', points), ('QC', points)] for row in rows[:6]}
    published['another task', 'DFP'] = [('QAM', points)]
    figure = panels.draw(tasks, rows, {}, published if count else {})
    figure.canvas.draw()
    if not count:
        assert not figure.legends
        return
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*rows[:6], 'published, DFP paper', 'published, QC']
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= min(axis.bbox.y0 for axis in figure.axes)


def test_an_untrained_evaluation_is_none_of_the_last_three(plan):
    rows = rows_of('DFP', TASKS[0], (10,), ([50, 80, 90],))
    rows.append(rows[0] | {'step': '0', 'success': '0'})
    (seed,) = by_seed(rows)['DFP', TASKS[0], IDENTITIES['DFP', TASKS[0]]]
    assert final(seed, 'offline', plan.cells[0].config, last=3) == 10


def test_aggregates_compare_complete_phases_alone(plan):
    """QC-BFN is unfinished, and MVP has one seed on the second task."""
    scores = scores_of(plan, seeds_of(plan, ROWS))
    assert {row: [list(each) for each in of_tasks] for row, of_tasks in scores.items()} == {
        'MVP': [[90, 90, 90], [40]],
        'DFP': [[96, 98, 100], [40, 50, 60]],
    }
    assert aggregates.shared_scores(['a', 'b'], {'x': {'a': [1]}, 'y': {'b': [1]}}) == {}


def test_a_single_row_has_no_other_to_beat(recwarn):
    scores = {'DFP': [np.array([90.0, 100.0])]}
    figure = aggregates.draw(['DFP'], scores, 'online')
    figure.canvas.draw()
    assert [axis.get_title() for axis in figure.axes] == [
        'mean over tasks (%)',
        'interquartile mean (%)',
    ]
    assert not recwarn.list


def test_a_certain_improvement_is_inside_its_panel():
    scores = {'MVP': [np.array([0.0, 10.0])], 'DFP': [np.array([90.0, 100.0])]}
    figure = aggregates.draw(['MVP', 'DFP'], scores, 'online')
    assert [axis.get_xlim() for axis in figure.axes] == [(-2, 102), (-2, 102), (-0.02, 1.02)]


def test_aggregates_by_hand():
    scores = [np.array([10.0, 20.0]), np.array([90.0, 100.0])]
    others = [np.array([10.0, 0.0]), np.array([100.0, 100.0])]
    assert aggregates.mean(scores) == 55
    assert aggregates.interquartile_mean(scores) == 55  # of 20 and 90
    assert aggregates.improvement(scores, others) == pytest.approx((3.5 / 4 + 1 / 4) / 2)
    low, high = aggregates.interval(aggregates.mean, scores)
    assert (low, high) == (50, 60)


def test_a_report_has_tables_curves_and_a_page(plan, tmp_path):
    paths = write(plan, ROWS, tmp_path / 'out', with_published=True)
    assert {path.suffix for path in paths} == {'.md', '.tex', '.csv', '.png', '.pdf', '.html'}
    assert all(path.stat().st_size > 200 for path in paths)
    text = next(path for path in paths if path.suffix == '.html').read_text()
    assert 'http' not in text.partition('<script')[0]
    told = text.replace('<span>', '').replace('</span>', '')
    for part in ('12345678', 'a machine', 'jax 0.1 or jax 0.2', '--start_training=5000'):
        assert part in told
    latex = next(path for path in paths if path.suffix == '.tex').read_text()
    markdown = next(path for path in paths if path.suffix == '.md').read_text()
    for words in ('contradicts itself', 'DFP and DFP w/o top-K', '1 of 3 seeds', '300 (3 of 3)'):
        assert words in text
        assert words in latex
        assert words in markdown
    for each in (text, latex.replace(r'$\pm$', '±'), markdown):
        assert each.count('82.1 ± 4.0') == 1  # of the last three


def test_settings_are_those_of_each_kind_of_task_with_flag_files_and_methods_read():
    tasks = [ROBOMIMIC[0], ROBOMIMIC[2], TASKS[0]]
    plan = make_plan('1', methods=['BFN', 'DFP'], tasks=tasks, flags=STEPS)
    found = {(each['method'], each['tasks']): each['flags'] for each in settings_of(plan)}
    robomimic, cube = 'lift-mh, can-mh', 'cube-double task 2'
    assert list(found) == [('BFN', f'{robomimic}, {cube}'), ('DFP', robomimic), ('DFP', cube)]
    assert '--agent.top_k=2' in found['DFP', robomimic]
    for flags in found.values():
        assert '--start_training=5000' in flags  # experiments/paper.flags
        assert flags.endswith('--offline_steps=100 --online_steps=300')
        assert '--flagfile' not in flags


def test_a_report_of_nothing_is_a_report(plan, tmp_path):
    paths = write(plan, [], tmp_path, with_published=False)
    assert 'No results yet' in next(p for p in paths if p.suffix == '.html').read_text()


def test_a_newer_run_takes_the_place_of_an_older_one_whole(tmp_path):
    """Also where it was evaluated at fewer steps."""
    path = tmp_path / 'results.csv'
    assert merge(path, ROWS) == merge(path, ROWS) == len(ROWS)
    newer = rows_of('DFP', TASKS[0], (50,), ([70],))
    assert merge(path, newer) == len(ROWS) - 4 + 2
    assert tuple(read(path)[0]) == COLUMNS
    seed, *others = by_seed(read(path))['DFP', TASKS[0], IDENTITIES['DFP', TASKS[0]]]
    assert (seed.offline, seed.online) == ({100: 50}, {100: 70})
    assert [each.online[300] for each in others] == [98, 100]


def test_a_file_without_versions_is_read_and_goes_on_with_them(tmp_path):
    path = tmp_path / 'results.csv'
    merge(path, ROWS[:4])
    old = [line.rpartition(',')[0] for line in path.read_text().splitlines()]
    path.write_text('\n'.join([*old, '']))
    assert [row['versions'] for row in read(path)] == [''] * 4
    merge(path, [ROWS[-1]])
    assert [row['versions'] for row in read(path)] == [*[''] * 4, 'jax 0.1']
    assert tuple(read(path)[0]) == COLUMNS


def test_other_files_are_refused_as_results(tmp_path):
    other = tmp_path / 'other.csv'
    other.write_text('a,b\n1,2\n')
    with pytest.raises(UserError, match=r'other.csv: has no column method'):
        read(other)
