"""Faults around a run are reported in one line and cost as little as possible."""

import errno
import os
import shutil

import numpy as np
import pytest
import toy_suite
from small_runs import make_config, read_table, start

from training import checkpoints
from training.logs import RunFolder, read_status
from utils.errors import UserError


def change_data(config, **changes):
    """Writes the data set of a run with other values."""
    directory = toy_suite.Path(config.env_options['toy_dataset_dir'])
    path = toy_suite.write_dataset(directory)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: change(arrays[name]) for name, change in changes.items()})


def test_a_failed_start_leaves_nothing(tmp_path):
    config = make_config(tmp_path)
    change_data(config, terminals=lambda x: ~x & False)
    with pytest.raises(UserError, match='terminals is True in 0 of'):
        start(config)
    assert not (tmp_path / 'exp').exists()


def test_the_second_process_of_a_run_is_told_before_it_does_anything(tmp_path, monkeypatch):
    monkeypatch.setattr('envs.make_dataset', lambda *_, **__: pytest.fail('too late'))
    config = make_config(tmp_path)
    folder = RunFolder(config.directory)
    with pytest.raises(UserError, match=r'already running; wait for it'):
        start(config)
    folder.close()
    assert not (tmp_path / 'exp').exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_is_in_no_table(tmp_path):
    config = make_config(tmp_path)
    change_data(config, rewards=lambda x: x * 1e30)
    with pytest.raises(
        UserError,
        match=r'critic/loss.* seed 0 not finite at offline step 1; it has no checkpoint yet$',
    ) as error:
        start(config)
    assert '\n' not in str(error.value)
    assert read_status(config.directory)['status'] == 'failed'
    assert read_table(config.directory / 'offline.csv') == []


def test_a_diagnosis_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    bad = {'policy/q_data': np.array([np.nan]), 'policy/diversity': np.array([1.0])}
    monkeypatch.setattr('training.updates.diagnose', lambda *_: bad)
    with pytest.raises(UserError, match='policy/q_data of seed 0 not finite at offline step 10'):
        start(make_config(tmp_path))


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr('training.loop.check_updates', lambda *_: None)
    config = make_config(tmp_path, save_interval=6)
    change_data(config, rewards=lambda x: x * 1e30)
    with pytest.raises(UserError, match=r'critic/.* not finite at offline step 6'):
        start(config)
    assert not list(config.directory.glob('checkpoints/*'))


def test_a_checkpoint_that_cannot_be_written_costs_the_checkpoint_alone(
    tmp_path, monkeypatch, caplog
):
    """The disk is full from the tenth update on."""
    config = make_config(tmp_path, save_interval=5)
    save = checkpoints.save

    def save_if_there_is_room(directory, groups, metadata):
        if metadata['phase'] == 'online' or metadata['step'] > 5:
            raise OSError(errno.ENOSPC, 'No space left on device')
        save(directory, groups, metadata)

    monkeypatch.setattr(checkpoints, 'save', save_if_there_is_room)
    result = start(config)
    assert read_status(result.directory)['status'] == 'done'
    warnings = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert warnings[0] == (
        f'{config.directory}/checkpoints/offline-000000010.npz: could not be saved '
        '(No space left on device); the run continues.'
    )
    assert checkpoints.find(result.directory).name == 'offline-000000005.npz'
    assert len(read_table(result.directory / 'online.csv')) == 6


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full, a full disk')
def test_a_row_that_cannot_be_written_ends_the_run_in_one_line(tmp_path):
    config = make_config(tmp_path)
    config.directory.mkdir(parents=True)
    table = config.directory / 'offline.csv'
    table.symlink_to('/dev/full')
    with pytest.raises(UserError, match=r'offline\.csv: cannot be written \(No space') as error:
        start(config)
    assert '\n' not in str(error.value)
    assert read_status(config.directory)['status'] == 'failed'
    table.unlink()
    result = start(config)  # there is room again
    assert read_status(result.directory)['status'] == 'done'
    assert len(read_table(table)) == 2


def test_a_folder_that_vanishes_ends_the_run_in_one_line(tmp_path):
    config = make_config(tmp_path)
    with pytest.raises(UserError, match=r'cannot be written \((No such file|it was removed)'):
        start(config, lambda *_: shutil.rmtree(tmp_path / 'exp', ignore_errors=True))
