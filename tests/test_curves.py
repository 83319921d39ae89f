"""Curves and tables of results from the files that runs leave."""

import csv

from reports.curves import by_seed, curve, final_successes, learning_curve, summary

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
    assert table.splitlines()[-1] == '| DFP | 30.0 ± 10.0 (20, 40) | 80.0 ± 10.0 (90, 70) |'


def test_the_phases_follow_each_other_on_one_axis(tmp_path):
    (rows, _) = by_seed([write(tmp_path / 'a.csv', ROWS)])
    assert curve(rows) == ({0: 10, 5: 20, 12: 90}, 5)
    learning_curve({'a': [tmp_path / 'a.csv']}, tmp_path / 'curve.png', 'title')
    assert (tmp_path / 'curve.png').stat().st_size > 5000
