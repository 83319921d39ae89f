"""Plans of tables: which runs, under which names, and what is refused."""

import csv
import pathlib

import pandas as pd
import pytest

from experiments.plans import TABLES, make_plan
from experiments.progress import is_gathered, without_gathered
from experiments.run_flags import parse
from utils.errors import UserError

CUBE = 'cube-double-play-singletask-task2-v0'
PAPER = pathlib.Path(__file__).parents[1] / 'experiments/paper/tables.csv'


@pytest.mark.parametrize(
    ('table', 'runs'),
    [('1', 6 * 12), ('2', 4 * 12), ('3', 4 * 3), ('4', 4 * 12), ('6', 8 * 12), ('7', 5)],
)
def test_each_table_of_the_paper_has_a_run_and_a_published_number_for_each_cell(table, runs):
    plan = make_plan(table)
    assert len(plan.runs) == len(plan.cells) == runs
    seeds = 8 if table == '7' else 5
    assert {cell.config.num_seeds for cell in plan.cells} == {seeds}
    assert all(cell.config.run_group == 'paper' for cell in plan.cells)
    assert all(cell.config.eval_episodes == 100 for cell in plan.cells)
    with PAPER.open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['table'] == table]
    published = {(r['phase'], r['setting'] or r['method'], r['task']) for r in rows}
    published = {(phase, name.removesuffix('.0'), task) for phase, name, task in published}
    lines = list(plan.groups) if plan.by_group else plan.tasks
    wanted = {(phase, row, line) for phase in plan.phases for row in plan.rows for line in lines}
    assert wanted <= published


def test_cells_of_equal_settings_are_one_run_whatever_table_they_are_in():
    by_name = {cell.name: cell for cell in make_plan('4', tasks=[CUBE]).cells}
    assert list(by_name) == ['DFP top_k=1', 'DFP top_k=2', 'DFP', 'DFP top_k=8']
    (main,) = (c for c in make_plan('1', tasks=[CUBE]).cells if c.row == 'DFP')
    assert by_name['DFP'].config.directory == main.config.directory
    (robomimic,) = (
        c for c in make_plan('4', tasks=['can-mh-low_dim']).cells if c.row == 'K=2'
    )  # fmt: skip
    assert robomimic.name == 'DFP'


def test_flags_given_to_the_plan_hold_for_all_runs_and_come_last():
    plan = make_plan('1', tasks=[CUBE], flags=('--offline_steps=7', '--agent.batch_size=9'))
    assert {cell.config.offline_steps for cell in plan.cells} == {7}
    assert {cell.config.agent['batch_size'] for cell in plan.cells} == {9}
    assert {cell.name for cell in plan.cells} == set(plan.rows)
    for cell in plan.cells:
        assert parse(['main.py', *cell.arguments]) == cell.config


def test_methods_on_tasks_without_a_table():
    plan = make_plan(methods=['DFP', 'MVP'], tasks=[CUBE, 'scene-play-singletask-v0'], seeds=3)
    assert [cell.name for cell in plan.cells] == ['DFP', 'MVP'] * 2
    assert plan.tasks == [CUBE, 'scene-play-singletask-v0']
    assert {cell.config.num_seeds for cell in plan.cells} == {3}
    assert plan.phases == ('offline', 'online')


def test_the_small_scale_is_never_taken_for_the_papers():
    paper, small = ({c.config.directory for c in make_plan('1', scale).cells}
                    for scale in ('paper', 'small'))  # fmt: skip
    assert not paper & small
    for table in TABLES['small']:
        if table != 'flags':
            plan = make_plan(table, 'small')
            assert {cell.config.run_group for cell in plan.cells} == {'small'}
            for cell in plan.cells:
                cell.config.check()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'table': '5'}, r'--table=5: not at --scale=paper; use one of 1, 2, 3, 4, 6, 7'),
        ({'table': '3', 'scale': 'small'}, '--table=3: not at --scale=small'),
        ({'table': '1', 'methods': ['SAC']}, '--methods=SAC: not in table 1; use one of BFN'),
        ({'table': '1', 'tasks': ['x']}, '--tasks=x: not in table 1; use one of lift-mh'),
        ({'methods': ['DFP']}, 'No table: use --table=1'),
        ({'methods': ['DPF'], 'tasks': [CUBE]}, '--methods=DPF: not in methods.toml'),
        ({'methods': ['DFP'], 'tasks': ['scene-play-singletask-v0'], 'scale': 'small'},
         '--tasks=scene-play-singletask-v0: not at --scale=small'),
        ({'table': '1', 'flags': ('--agent.topk=3',)}, '--agent.topk: not a setting of'),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        make_plan(**arguments)


def test_a_run_is_gathered_once_all_its_seeds_have_their_end():
    plan = make_plan(methods=['DFP', 'MVP'], tasks=[CUBE], seeds=2)
    cell, _ = plan.cells
    end = {'identity': cell.config.identity, 'phase': 'online', 'step': 1_000_000}
    rows = pd.DataFrame([end | {'seed': 0}, end | {'seed': 1}])
    assert is_gathered(cell, rows)
    assert without_gathered(plan, rows).rows == ['MVP']
    assert not is_gathered(cell, rows[:1])
    for change in ({'step': 900_000}, {'phase': 'offline'}, {'identity': 'another'}):
        assert not is_gathered(cell, pd.DataFrame([end | {'seed': 0}, end | {'seed': 1} | change]))
    (offline,) = make_plan(methods=['DFP-offline'], tasks=[CUBE], seeds=1).cells
    row = {'identity': offline.config.identity, 'seed': 0, 'phase': 'offline', 'step': 1_000_000}
    assert is_gathered(offline, pd.DataFrame([row]))
