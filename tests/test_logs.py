"""What a run leaves behind: tables, its folder, a picture."""

from functools import partial

import pytest
import small_runs

from training import RunConfig, learning_curve, logs

read_table = partial(small_runs.read_table, without=())


def test_a_clock_that_is_set_does_not_change_how_long_a_run_took(tmp_path, monkeypatch):
    log = logs.RunLog(tmp_path, RunConfig(), {}, seconds=5.0)
    monkeypatch.setattr('time.time', lambda: 0.0)
    assert 5.0 <= log.seconds < 65.0


def test_a_table_goes_on_after_the_rows_that_are_to_be_kept(tmp_path):
    path = tmp_path / 'eval.csv'
    table = logs.Table(path)
    table.write({'step': 1, 'success': 0.5})
    assert read_table(path) == [{'step': '1', 'success': '0.5'}]  # at once
    size = table.size
    table.write({'step': 2, 'success': 0.7})
    table.close()
    again = logs.Table(path, size)
    again.write({'step': 2, 'success': 0.8})
    assert [row['success'] for row in read_table(path)] == ['0.5', '0.8']
    again.close()
    anew = logs.Table(path)
    anew.write({'other': 3})
    assert read_table(path) == [{'other': '3'}]
    with pytest.raises(ValueError, match=r'eval\.csv: has 10 bytes, but had 100 .*; restore it'):
        logs.Table(path, 100)


@pytest.mark.parametrize('score', ['success', 'return'])
def test_a_log_writes_a_row_for_each_seed_and_draws_the_curve(tmp_path, score):
    log = logs.RunLog(tmp_path, RunConfig(seed=3, num_seeds=2), {}, seconds=1000.0)
    log.write('eval', 'offline', 0, [{score: 0.1}, {score: 0.2}])
    log.write('eval', 'online', 50, [{score: 0.5}, {score: 0.7}])
    rows = read_table(tmp_path / 'eval.csv')
    assert [(row['step'], row['seed'], row[score]) for row in rows] == [
        ('0', '3', '0.1'), ('0', '4', '0.2'), ('50', '3', '0.5'), ('50', '4', '0.7'),
    ]  # fmt: skip
    assert float(rows[0]['seconds']) >= 1000
    assert log.sizes == {'offline': 0, 'online': 0, 'eval': (tmp_path / 'eval.csv').stat().st_size}
    assert not (tmp_path / 'learning_curve.png').exists()
    log.close()
    assert (tmp_path / 'learning_curve.png').read_bytes().startswith(b'\x89PNG')


def test_what_is_not_known_is_an_empty_cell_and_what_is_not_finite_says_so(tmp_path):
    log = logs.RunLog(tmp_path, RunConfig(), {})
    log.write('online', 'online', 10, [{'episodes': 0, 'critic/loss': None}])
    log.write('online', 'online', 20, [{'episodes': 1, 'critic/loss': float('nan')}])
    log.close()
    assert [row['critic/loss'] for row in read_table(tmp_path / 'online.csv')] == ['', 'nan']


def test_a_folder_has_one_owner_and_its_status_is_never_half_written(tmp_path):
    folder = logs.RunFolder(tmp_path / 'run')
    folder.write_status('running', step=3)
    with pytest.raises(ValueError, match=r'run: already running \(process \d+ on '):
        logs.RunFolder(tmp_path / 'run')
    folder.write_status('failed', error='x')
    assert {k: logs.read_status(tmp_path / 'run')[k] for k in ('status', 'step', 'error')} == {
        'status': 'failed', 'step': 3, 'error': 'x',
    }  # fmt: skip
    folder.close()
    logs.RunFolder(tmp_path / 'run').close()
    assert logs.read_status(tmp_path / 'none') == {}
    with pytest.raises(ValueError, match='cannot write /dev/null/run'):
        logs.RunFolder(logs.pathlib.Path('/dev/null/run'))


def test_copies_of_a_run_are_numbered_and_the_newest_is_the_run(tmp_path):
    folder = tmp_path / 'DFP-sd000-1a2b3c4d'
    assert logs.newest_copy(folder) == logs.next_copy(folder) == folder
    for name in ('', '-2', '-10', '-x'):
        (tmp_path / f'{folder.name}{name}').mkdir()
    assert logs.newest_copy(folder).name == f'{folder.name}-10'
    assert logs.next_copy(folder).name == f'{folder.name}-11'


@pytest.mark.parametrize('problem', ['directory', 'matplotlib'])
def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path, monkeypatch, caplog, problem):
    if problem == 'directory':
        (tmp_path / 'learning_curve.png').mkdir()
    else:
        monkeypatch.setattr(learning_curve, 'draw', lambda *_: 1 / 0)
    log = logs.RunLog(tmp_path, RunConfig(seed=3), {})
    log.write('eval', 'offline', 0, [{'success': 0.1}])
    log.close()
    assert len(read_table(tmp_path / 'eval.csv')) == 1
    (message,) = caplog.messages
    assert message.startswith('learning_curve.png: not drawn (')
    assert message.endswith('; the run continues.')
