"""The page of what a run logged."""

import pathlib

import matplotlib.image
import numpy as np
import pytest
from small_runs import make_config

from reports.diagnostics import PANELS, draw, found_in, label_of, read_run
from training import train
from utils.errors import UserError

DOCS = pathlib.Path(__file__).parent.parent / 'docs' / 'metrics.md'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp('diagnostics')
    return train(make_config(directory, agent={'top_k': 2}, num_seeds=2)).directory


def test_metrics_are_read_by_seed_on_one_axis(folder):
    metrics, boundary = read_run(folder)
    assert boundary == 20
    values = metrics['policy/q_best']
    assert sorted(values) == ['0', '1']
    assert values['0'][0] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert metrics['policy/distance_to_old']['1'][0] == [30, 40, 50, 60, 70, 80]
    assert metrics['eval/success']['0'][0][-1] == 80


def test_every_metric_of_a_run_has_a_panel_and_an_explanation(folder):
    metrics, _ = read_run(folder)
    drawn = {name for panel in PANELS for name in found_in(panel, metrics)}
    others = {'eval/return', 'eval/length', 'eval/simulator_failures'}
    others |= {'episodes', 'simulator_failures'}
    assert set(metrics) == drawn | others
    text = DOCS.read_text()
    for name in metrics:
        family = name.removeprefix('eval/').rpartition('_0.')[0] or name.removeprefix('eval/')
        assert f'`{family}' in text, name


def test_the_page_is_drawn_for_one_run_and_for_several(folder, tmp_path):
    run = read_run(folder)
    for runs in ({'a': run}, {'a': run, 'b': run}):
        draw(runs, tmp_path / 'page.png')
        picture = matplotlib.image.imread(tmp_path / 'page.png')[..., :3]
        colours = np.unique(255 * picture @ [1, 256, 256**2])
        assert len(colours) > 50  # lines and letters, not an empty page


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'no rows in offline\.csv'):
        read_run(tmp_path)
    (tmp_path / 'eval.csv').write_text('a,b\n1,2\n')
    with pytest.raises(UserError, match=r'eval\.csv: not a table of a run'):
        read_run(tmp_path)
    assert label_of(tmp_path) == tmp_path.name
