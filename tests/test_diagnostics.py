"""The page of what a run logged."""

import pathlib

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from small_runs import make_config

from reports.diagnostics import PANELS, draw, found_in, read
from training import train
from utils.errors import UserError

DOCS = pathlib.Path(__file__).parent.parent / 'docs' / 'metrics.md'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp('diagnostics')
    return train(make_config(directory, num_seeds=2)).directory


def test_metrics_are_read_by_seed_on_one_axis(folder):
    table = read(folder)
    steps = table.groupby(['metric', 'seed'])['total_step'].apply(list)
    assert steps['policy/q_best', 0] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert steps['policy/distance_to_old', 1] == [30, 40, 50, 60, 70, 80]
    assert steps['success', 0][-1] == 80


def test_every_metric_of_a_run_has_a_panel_and_an_explanation(folder):
    metrics = read(folder)['metric'].unique()
    drawn = {name for panel in PANELS for name in found_in(panel, metrics)}
    assert {*metrics} == drawn | {'length', 'simulator_failures', 'episodes', 'seconds'}
    text = DOCS.read_text()
    for name in {*metrics} - {'seconds'}:
        assert f'`{name.rpartition("_0.")[0] or name}' in text, name


def test_the_page_is_drawn_for_one_run_and_for_several(folder, tmp_path):
    table = read(folder)
    for each in (table, pd.concat([table.assign(label='a'), table.assign(label='b')])):
        draw(each).savefig(tmp_path / 'page.png', dpi=40)
        picture = matplotlib.image.imread(tmp_path / 'page.png')[..., :3]
        colours = np.unique(255 * picture @ [1, 256, 256**2])
        assert len(colours) > 50  # lines and letters, not an empty page


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'no rows in offline\.csv'):
        read(tmp_path)
