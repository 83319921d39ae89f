"""Curves and tables of results from the files that runs leave."""

import csv
import json
import pathlib

import pytest

from reports import curves
from reports.curves import (
    Group,
    by_seed,
    curve,
    final_successes,
    group_of,
    grouped,
    labelled,
    learning_curve,
    summary,
)

RESULTS = pathlib.Path(__file__).parent.parent / 'results'

ROWS = [
    ('offline', 0, 0, 0.1), ('offline', 0, 1, 0.0), ('offline', 5, 0, 0.2), ('offline', 5, 1, 0.4),
    ('online', 0, 0, 0.2), ('online', 0, 1, 0.4), ('online', 7, 0, 0.9), ('online', 7, 1, 0.7),
]  # fmt: skip


def write(path, rows):
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['phase', 'step', 'seed', 'success'])
        writer.writerows(rows)
    return path


def test_success_is_that_of_the_last_row_of_the_phase_seed_by_seed(tmp_path):
    files = [write(tmp_path / 'a.csv', ROWS), write(tmp_path / 'b.csv', ROWS[:3])]
    assert len(by_seed(files)) == 4  # seed 0 of another run is another seed
    assert final_successes(files, 'offline') == [20, 40, 20, 0]
    assert final_successes(files, 'online') == [90, 70]
    table = summary({'DFP': files[:1]})
    assert table.splitlines()[-1] == '| DFP | 30.0 ± 14.1 (20, 40) | 80.0 ± 14.1 (90, 70) |'
    alone = write(tmp_path / 'alone.csv', [row for row in ROWS if row[2] == ROWS[0][2]])
    assert ' ± ' not in summary({'DFP': [alone]})


def test_the_phases_follow_each_other_on_one_axis(tmp_path):
    (rows, _) = by_seed([write(tmp_path / 'a.csv', ROWS)])
    assert curve(rows) == ({0: 10, 5: 20, 12: 90}, 5)
    learning_curve({'a': [tmp_path / 'a.csv']}, tmp_path / 'curve.png', 'title')
    assert (tmp_path / 'curve.png').stat().st_size > 5000


def make_run(folder, rows=ROWS, status='done', **written):
    """Writes what a run leaves behind; returns its `eval.csv`."""
    folder.mkdir(parents=True)
    if status:
        (folder / 'status.json').write_text(json.dumps({'status': status}))
    if written:
        (folder / 'flags.json').write_text(json.dumps(written))
    return write(folder / 'eval.csv', rows)


def other_seeds(rows, by=10):
    return [(phase, step, seed + by, success) for phase, step, seed, success in rows]


def test_only_runs_of_one_task_method_and_settings_are_averaged(tmp_path):
    files = [
        make_run(tmp_path / 'cube-double' / 'DFP-sd000-001-aaaaaaaa'),
        make_run(tmp_path / 'cube-double' / 'DFP-sd010-011-aaaaaaaa', other_seeds(ROWS)),
        make_run(tmp_path / 'cube-double' / 'DFP-sd000-001-bbbbbbbb'),
        make_run(tmp_path / 'cube-double' / 'MVP-sd000-001-cccccccc'),
        make_run(tmp_path / 'cube-triple' / 'DFP-sd000-001-aaaaaaaa'),
    ]
    groups = grouped(files, pytest.fail)
    assert groups == {
        Group('cube-double', 'DFP', 'aaaaaaaa'): files[:2],
        Group('cube-double', 'DFP', 'bbbbbbbb'): files[2:3],
        Group('cube-double', 'MVP', 'cccccccc'): files[3:4],
        Group('cube-triple', 'DFP', 'aaaaaaaa'): files[4:],
    }
    assert list(labelled(groups)) == [
        'DFP, cube-double, aaaaaaaa', 'DFP, cube-double, bbbbbbbb', 'MVP, cube-double',
        'DFP, cube-triple',
    ]  # fmt: skip
    alone = {group: files for group, files in groups.items() if group.identity != 'bbbbbbbb'}
    assert list(labelled(alone)) == ['DFP, cube-double', 'MVP, cube-double', 'DFP, cube-triple']


def test_a_run_that_was_moved_is_what_its_flags_say(tmp_path):
    said = {'flags': {'env_name': 'cube-double', 'method': None}, 'identity': 'dddddddd',
            'agent': {'agent_name': 'dfp'}}  # fmt: skip
    assert group_of(make_run(tmp_path / 'a' / 'b', **said)) == Group(
        'cube-double', 'dfp', 'dddddddd'
    )
    said['flags']['method'] = 'DFP'
    assert group_of(make_run(tmp_path / 'a' / 'c', **said)).method == 'DFP'


@pytest.mark.parametrize(
    ('folder', 'method', 'identity'),
    [
        ('DFP-sd000-1a2b3c4d', 'DFP', '1a2b3c4d'),
        ('QC-FQL-sd000-004-12345678-2', 'QC-FQL', '12345678'),
        ('QC-BFN-sd000-002', 'QC-BFN', ''),
        ('DFP-sd1000', 'DFP', ''),
        ('whatever', 'whatever', ''),
    ],
)
def test_the_name_of_a_folder_says_method_and_settings(folder, method, identity):
    assert group_of(pathlib.Path('task', folder, 'eval.csv')) == Group('task', method, identity)


def test_what_cannot_be_averaged_is_named_and_left_out(tmp_path):
    good = make_run(tmp_path / 'DFP-sd000-001-aaaaaaaa')
    newer = make_run(tmp_path / 'DFP-sd000-001-aaaaaaaa-2')
    killed = make_run(tmp_path / 'DFP-sd010-011-aaaaaaaa', other_seeds(ROWS[:4]), status=None)
    left = make_run(tmp_path / 'DFP-sd020-021-aaaaaaaa', other_seeds(ROWS, 20), 'interrupted')
    empty = make_run(tmp_path / 'DFP-sd030-aaaaaaaa', [])
    other = tmp_path / 'online.csv'
    other.write_text('phase,step,seed,loss\nonline,1,0,2\n')
    missing = tmp_path / 'none.csv'
    lines = []
    groups = grouped([good, newer, killed, left, empty, other, missing], lines.append)
    assert list(groups.values()) == [[newer]]
    expected = {
        good: f'the same seeds as {newer}', killed: 'unfinished (others of its kind went on)',
        left: 'unfinished (interrupted)', empty: 'empty', other: 'not the eval.csv of a run',
        missing: 'cannot be read (No such file or directory)',
    }  # fmt: skip
    assert sorted(lines) == sorted(f'{file}: {why}; left out' for file, why in expected.items())


def test_the_results_that_are_kept_can_be_read():
    groups = grouped(RESULTS.glob('*/*/eval.csv'), pytest.fail)
    assert len(groups) == len(list(RESULTS.glob('*/*/eval.csv')))
    table = summary(labelled({g: f for g, f in groups.items() if g.task == 'quickstart'}))
    assert '| DFP | 14.7 ± 6.1 (16, 8, 20) | 96.0 ± 0.0 (96, 96, 96) |' in table


def test_a_picture_that_cannot_be_drawn_leaves_no_figure_open(tmp_path):
    before = curves.plt.get_fignums()
    with pytest.raises(OSError, match='none'):
        learning_curve({'a': [make_run(tmp_path / 'a')]}, tmp_path / 'none' / 'x.png', 'title')
    assert curves.plt.get_fignums() == before
