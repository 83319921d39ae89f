"""What a run leaves behind: tables, checkpoints, pictures, Weights & Biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from utils import checkpoints, logs, plots


def test_rows_are_on_disk_as_soon_as_they_are_written(tmp_path):
    table = logs.Table(tmp_path / 'eval.csv')
    table.write({'step': 1, 'success': 0.5})
    assert plots.read_table(tmp_path / 'eval.csv') == [{'step': '1', 'success': '0.5'}]
    table.write({'step': 2, 'success': 1.0})
    assert len(plots.read_table(tmp_path / 'eval.csv')) == 2


def test_two_runs_started_in_the_same_second_have_directories_of_their_own(tmp_path):
    runs = [logs.RunLog(tmp_path, 'group', 'env', 'dfp', seed=0) for _ in range(3)]
    assert len({run.directory for run in runs}) == 3


def test_wandb_without_account_or_network_logs_offline_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv('NETRC', str(tmp_path / 'none'))
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    assert 'no account' in logs._wandb_problem()
    monkeypatch.setenv('WANDB_API_KEY', 'x' * 40)
    monkeypatch.setenv('WANDB_BASE_URL', 'http://127.0.0.1:9')
    assert 'cannot be reached' in logs._wandb_problem()
    run = logs.start_wandb('online', tmp_path, 'group', {})
    assert run.settings.mode == 'offline'
    run.finish()
    assert logs.start_wandb('disabled', tmp_path, 'group', {}) is None


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    tree = {'params': jnp.arange(4.0), 'rng': jax.random.PRNGKey(3), 'count': jnp.int32(7)}
    checkpoints.save(tmp_path / 'c', tree, {'env_name': 'cube'})
    restored = checkpoints.restore(tmp_path / 'c', jax.tree.map(jnp.zeros_like, tree))
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
    assert checkpoints.read_metadata(tmp_path / 'c') == {'env_name': 'cube'}


def test_a_checkpoint_of_other_shapes_or_half_written_is_refused(tmp_path):
    checkpoints.save(tmp_path / 'c', {'params': jnp.zeros(4)}, {})
    with pytest.raises(ValueError, match='does not fit this agent'):
        checkpoints.restore(tmp_path / 'c', {'params': jnp.zeros(5)})
    with pytest.raises(ValueError, match='does not fit this agent'):
        checkpoints.restore(tmp_path / 'c', {'params': jnp.zeros(4), 'more': jnp.zeros(1)})
    (tmp_path / 'c' / checkpoints.METADATA).unlink()
    with pytest.raises(ValueError, match='no checkpoint there'):
        checkpoints.restore(tmp_path / 'c', {'params': jnp.zeros(4)})


def test_final_success_is_that_of_the_last_row_of_the_phase(tmp_path):
    table = logs.Table(tmp_path / 'eval.csv')
    for phase, step, success in (('offline', 0, 0.1), ('offline', 5, 0.2), ('online', 0, 0.2)):
        table.write({'phase': phase, 'step': step, 'success': success})
    assert plots.final_success(tmp_path / 'eval.csv', 'offline') == 20
    assert plots.final_success(tmp_path / 'eval.csv', 'online') == 20
    plots.learning_curve({'a': [tmp_path / 'eval.csv'] * 2}, tmp_path / 'curve.png', 'title')
    assert (tmp_path / 'curve.png').stat().st_size > 5000
    table = plots.summary({'DFP': [tmp_path / 'eval.csv'] * 2})
    assert table.splitlines()[-1] == '| DFP | 20.0 ± 0.0 (20, 20) | 20.0 ± 0.0 (20, 20) |'
