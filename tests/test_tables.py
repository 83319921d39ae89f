"""Reports of a plan: tables by hand, missing and partial cells, pictures and a page."""

import itertools

import numpy as np
import pandas as pd
import pytest
from result_files import long_table

from experiments import report
from experiments.plans import TABLES, make_plan
from experiments.report import entries_of, select, write
from reports import aggregates, runs, tables

TASKS = ['cube-double-play-singletask-task2-v0', 'cube-triple-play-singletask-task2-v0']
STEPS = ('--offline_steps=100', '--online_steps=300')
ROBOMIMIC = ['lift-mh-low_dim', 'square-mh-low_dim', 'can-mh-low_dim']
DOUBLE = [f'cube-double-play-singletask-task{i}-v0' for i in (2, 3, 4)]


def rows_of(plan, row, task, offline, online):
    """Rows of results: scores in % of each seed at the end of the offline phase; online, lists of
    evaluations, one at each 100 steps."""
    (cell,) = [cell for cell in plan.cells if (cell.row, cell.task) == (row, task)]
    about = {'method': cell.name, 'task': task, 'identity': cell.config.identity, 'return': 0,
             'seconds': 7200, 'commit': '1234567890', 'device': 'a machine',
             'versions': f'jax 0.{1 + (task == TASKS[1])}'}  # fmt: skip
    return [
        about | {'seed': seed, 'phase': phase, 'step': step, 'success': score / 100}
        for seed, (end, later) in enumerate(zip(offline, online, strict=True))
        for phase, step, score in (
            ('offline', 100, end), *(('online', 100 * (i + 1), x) for i, x in enumerate(later))
        )
    ]  # fmt: skip


@pytest.fixture
def plan():
    return make_plan('1', methods=['QC-BFN', 'MVP', 'DFP'], tasks=TASKS, seeds=3, flags=STEPS)


@pytest.fixture
def results(plan, tmp_path):
    ends = [
        ('DFP', TASKS[0], (10, 20, 30), ([50, 95, 96], [60, 80, 98], [70, 90, 100])),
        ('DFP', TASKS[1], (0, 0, 0), ([0, 0, 40], [0, 0, 50], [0, 0, 60])),
        ('MVP', TASKS[0], (10, 20, 30), ([50, 80, 90], [50, 80, 90], [50, 80, 90])),
        ('MVP', TASKS[1], (0,), ([0, 0, 40],)),  # one seed of three
        ('QC-BFN', TASKS[0], (1, 1, 1), ([1, 2], [1, 2], [1, 2])),  # unfinished
    ]
    rows = [row for end in ends for row in rows_of(plan, *end)]
    return long_table(rows, tmp_path / 'all.csv')


def entries_by(plan, table, phase='online', warn=pytest.fail):
    """The entries of a phase, by task and method."""
    scores = runs.scores(select(plan, table, warn), warn)
    entries = entries_of(plan, scores)
    return scores, entries[entries['phase'] == phase].set_index(['task', 'method'])


def test_entries_are_mean_and_std_over_seeds_and_averages_over_tasks(plan, results):
    _, entries = entries_by(plan, results)
    assert len(entries) == 3 * 3  # with the average
    dfp = entries.loc[TASKS[0], 'DFP']
    assert (dfp['mean'], dfp['std'], dfp['seeds']) == (98, 2, 3)
    assert (dfp['low95'], dfp['high95']) == (96, 100)
    assert (dfp['last3_mean'], dfp['last3_std']) == pytest.approx((82.11, 3.98), abs=0.01)
    assert (dfp['steps_to_95'], dfp['seeds_to_95']) == (300, 3)
    average = entries.loc['average', 'DFP']
    assert (average['mean'], average['std']) == (74, 6)
    assert entries.loc['average', 'MVP']['mean'] == 65  # of the seed that both tasks have
    assert entries.loc[TASKS[0], 'MVP']['seeds_to_95'] == 0
    assert entries.loc[TASKS[1], 'QC-BFN']['seeds_to_95'] == average['seeds_to_95'] == ''
    assert entries['seeds'].tolist() == [0, 3, 3, 0, 1, 3, 0, 1, 3]


def test_a_plan_of_fewer_steps_reads_runs_that_went_further(results):
    flags = ('--offline_steps=100', '--online_steps=200')
    shorter = make_plan('1', methods=['DFP'], tasks=TASKS[:1], seeds=3, flags=flags)
    _, entries = entries_by(shorter, results)
    assert entries.loc[TASKS[0], 'DFP']['mean'] == pytest.approx((95 + 80 + 90) / 3)


def test_results_of_other_settings_or_data_are_not_those_of_a_plan(plan, results):
    flags = (*STEPS, '--agent.batch_size=32')
    other = make_plan('1', methods=['DFP'], tasks=TASKS, seeds=3, flags=flags)
    assert select(other, results, pytest.fail).empty
    lines = []
    assert len(select(other, results, lines.append, any_version=True)) == 2 * 3 * 4 * 3
    assert lines == ['Made by earlier commits, where their settings had another identity: DFP '
                     '(12345678)']  # fmt: skip
    results.loc[results['seed'] == 2, 'data'] = 'other'
    _, entries = entries_by(plan, results, warn=lines.append)
    assert entries.loc[TASKS[0], 'DFP']['mean'] == 100
    assert f'DFP, {TASKS[0]}: runs on several data sets; the report uses the last one' in lines


def test_cells_say_what_is_missing_and_show_the_published_number(plan, results):
    scores, entries = entries_by(plan, results)
    markdown, latex = (
        report.grids_of(plan, scores, entries.reset_index(), markup)[0]
        for markup in (tables.MARKDOWN, tables.LATEX)
    )
    assert markdown.note == (
        '± is the standard deviation (n - 1) over 3 seeds; cells with fewer say so.'
    )
    first, second = (markdown.cells.loc[task].tolist() for task in TASKS)
    assert first == ['(paper 99.8 ± 0.0)', '<u>90.0 ± 0.0</u> (paper 98.4 ± 1.0 ✗)',
                     '**98.0 ± 2.0** (paper 100.0 ± 0.0 ✓)']  # fmt: skip
    assert second[1] == '<u>40.0 ± 0.0</u> [1 of 3 seeds] (paper 86.2 ± 4.0)'
    text = tables.latex(latex)
    assert r'\textbf{98.0 $\pm$ 2.0}\\ {\scriptsize (paper 100.0 $\pm$ 0.0 $\checkmark$)}' in text
    assert rf'{TASKS[1]} & {{\scriptsize (paper ' in text  # nothing of ours
    assert r'\underline{40.0 $\pm$ 0.0} [1 of 3 seeds]' in text
    assert tables.escaped(r'\textbf{a_b} ✓') == r'\textbf{a\_b} $\checkmark$'


def test_best_is_bold_and_second_underlined_also_when_tied():
    means = {'a': 90.04, 'b': 90.0, 'c': 80.0, 'd': 70.0, 'e': None}
    entries = [
        {'task': 'x', 'method': name, 'planned_seeds': 1}
        | tables.statistics([mean] if mean else [])
        for name, mean in means.items()
    ]
    grid = tables.grid(pd.DataFrame(entries), '', tables.MARKDOWN)
    assert grid.cells.loc['x'].tolist() == [
        '**90.0 ± 0.0**', '**90.0 ± 0.0**', '<u>80.0 ± 0.0</u>', '70.0 ± 0.0', '',
    ]  # fmt: skip


def test_groups_are_means_of_their_tasks(tmp_path):
    plan = make_plan('4', methods=['K=1', 'K=4'], tasks=DOUBLE, seeds=2, flags=STEPS)
    rows = []
    for task, end in zip(DOUBLE, (10, 20, 60), strict=True):
        rows += rows_of(plan, 'K=1', task, (0, 0), ([0, 0, end], [0, 0, end + 3]))
    scores, entries = entries_by(plan, long_table(rows, tmp_path / 'a.csv'))
    group = entries.loc['cube-double', 'K=1']
    assert (group['mean'], group['std']) == (31.5, pytest.approx(4.5**0.5))
    assert entries.loc['cube-double', 'K=4']['seeds'] == 0
    assert pd.notna(group['published_mean'])
    *_, grid = report.grids_of(plan, scores, entries.reset_index(), tables.MARKDOWN)
    assert grid.cells.loc['cube-double'].tolist() == ['(0 of 6)', '']


def test_tasks_of_unlike_scores_have_no_average(plan, results):
    results.loc[results['task'] == TASKS[1], 'metric'] = 'return'
    results.loc[results['task'] == TASKS[1], 'value'] = -7.0
    results = results.drop_duplicates(['method', 'task', 'seed', 'phase', 'step', 'metric'])
    scores, entries = entries_by(plan, results)
    assert {*entries.reset_index()['task']} == {*TASKS}
    assert entries['mean'].tolist()[1:] == [90, 98, pytest.approx(np.nan, nan_ok=True), -7, -7]
    grids = report.grids_of(plan, scores, entries.reset_index(), tables.MARKDOWN)
    assert grids[0].heading == 'End of the online phase, score'
    assert grids[-1].cells.loc[TASKS[1]].isna().all() or not any(grids[-1].cells.loc[TASKS[1]])


def test_each_row_of_tables_1_to_4_has_the_published_curves_of_its_name():
    """Figure 3, of table 2, has one domain; QAM's FQL has chunks and ten critics."""
    curves = report.published_curves()
    sources = curves.groupby(['task', 'method'])['source'].unique().map(list)
    rows = set()
    for table in '1234':
        content = TABLES['paper'][table]
        rows |= set(content['rows'])
        for group in content['tasks'] if table != '2' else ['cube-triple']:
            for task, row in itertools.product(TABLES['tasks'][group], content['rows']):
                assert 'DFP' in sources[task, row]
    assert {*curves['method']} == rows | {'QC-FQL-10', 'QAM', 'QAM-E', 'QAM-F'}
    assert sources[TASKS[0], 'QC-FQL'] == ['DFP', 'QC']
    assert sources[TASKS[0], 'QC-FQL-10'] == ['QAM']
    assert sources[TASKS[0], 'FQL'] == ['DFP', 'QC']


def test_aggregates_compare_complete_phases_alone(plan, results):
    """QC-BFN is unfinished; without DFP on the second task, that one is not shared."""
    scores = runs.scores(select(plan, results))
    figure = report.aggregate(plan, scores)
    assert figure.get_suptitle() == 'End of the online phase, 2 tasks that all have, 95% intervals'
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ['MVP', 'DFP']
    few = scores[(scores['row'] != 'DFP') | (scores['task'] == TASKS[0])]
    assert '1 task' in report.aggregate(plan, few).get_suptitle()
    assert report.aggregate(plan, scores[scores['row'] == 'QC-BFN']) is None


def test_aggregates_by_hand():
    scores = [np.array([10.0, 20.0]), np.array([90.0, 100.0])]
    others = [np.array([10.0, 0.0]), np.array([100.0, 100.0])]
    assert aggregates.mean(scores) == 55
    assert aggregates.interquartile_mean(scores) == 55  # of 20 and 90
    assert aggregates.improvement(scores, others) == pytest.approx((3.5 / 4 + 1 / 4) / 2)
    assert aggregates.interval(aggregates.mean, scores) == (50, 60)
    assert aggregates.interval(aggregates.improvement, scores, scores)[1] < 1


def test_a_report_has_tables_curves_and_a_page(plan, results, tmp_path):
    paths = write(plan, results, tmp_path / 'out', with_published=True)
    kinds = {path.name.removeprefix('paper-table-1'): path for path in paths}
    pictures = {f'-{x}.{kind}' for x in ('curves', 'aggregate') for kind in ('png', 'pdf')}
    assert kinds.keys() == {'.md', '.tex', '.csv', '.html', '-results.csv'} | pictures
    assert all(path.stat().st_size > 200 for path in paths)
    page, latex, markdown = (kinds[x].read_text() for x in ('.html', '.tex', '.md'))
    assert 'http' not in page
    assert 'src="data:image/png;base64,iVBOR' in page
    told = page.replace('<span>', '').replace('</span>', '')
    for part in ('12345678', '2.00', 'a machine', 'jax 0.1 or jax 0.2', '--start_training=5000'):
        assert part in told
    for words in ('contradicts itself', 'DFP and DFP w/o top-K', '1 of 3 seeds', '300 (3 of 3)'):
        assert words in page
        assert words in latex
        assert words in markdown
    for each in (page, latex.replace(r'$\pm$', '±'), markdown):
        assert each.count('82.1 ± 4.0') == 1  # of the last three
    raw = pd.read_csv(kinds['-results.csv'])
    assert list(raw) == runs.COLUMNS
    assert len(raw) == len(results)


def test_settings_are_those_of_each_kind_of_task_with_flag_files_and_methods_read():
    tasks = [ROBOMIMIC[0], ROBOMIMIC[2], TASKS[0]]
    plan = make_plan('1', methods=['BFN', 'DFP'], tasks=tasks, flags=STEPS)
    found = report.settings_of(plan).set_index(['method', 'tasks'])['flags']
    robomimic, cube = 'lift-mh, can-mh', 'cube-double task 2'
    assert list(found.index) == [
        ('BFN', f'{robomimic}, {cube}'), ('DFP', robomimic), ('DFP', cube),
    ]  # fmt: skip
    assert '--agent.top_k=2' in found['DFP', robomimic]
    for flags in found:
        assert '--start_training=5000' in flags  # experiments/paper.flags
        assert flags.endswith('--offline_steps=100 --online_steps=300')
        assert '--flagfile' not in flags


def test_a_report_of_nothing_is_a_report(plan, results, tmp_path):
    assert all(path.exists() for path in write(plan, results[:0], tmp_path, with_published=False))
