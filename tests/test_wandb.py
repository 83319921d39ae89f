"""Runs in Weights & Biases, read back from the files of its offline mode."""

import logging
import time

import pytest
from wandb_files import description, history, read_records

from training import Interrupted, logs, wandb_runs

SETTINGS = {
    'wandb_mode': 'offline', 'wandb_project': 'study', 'wandb_entity': 'team',
    'wandb_tags': 'one, two', 'run_group': 'group', 'offline_steps': 20, 'agent': {'lr': 0.1},
}  # fmt: skip


def start(folder, seeds=(3, 4), **changes):
    log = logs.RunLog(folder, 'title', list(seeds), {})
    log.draw = lambda: None
    log.start_wandb(SETTINGS | changes)
    return log


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A run of two seeds that was left and continued: its folder."""
    folder = tmp_path_factory.mktemp('DFP-sd003-004')
    score = {'success': 0.25, 'return': -3.0, 'length': 7.0}
    log = start(folder)
    log.write('offline', 'offline', 10, [{'critic/loss': 1.0, 'critic/q_mean': 2.0}] * 2)
    log.write('eval', 'offline', 20, [score] * 2)
    log.write('eval', 'online', 0, [score] * 2)
    log.close()
    time.sleep(1.1)  # W&B's folders are named by the second
    log = start(folder)
    log.write('online', 'online', 5, [{'critic/loss': 3.0, 'episodes': 1, 'empty': ''}] * 2)
    log.close()
    return folder


def test_steps_count_through_both_phases_and_numbers_have_the_names_of_fql_and_qc(written):
    first, _ = (history(records) for records in read_records(written)[:2])
    (losses, scores) = (row for row in first if '_step' in row)
    assert losses['_step'] == 10
    assert losses['training/critic/critic_loss'] == 1.0
    assert losses['training/critic/q_mean'] == 2.0
    assert losses['time/total_time'] >= 0
    assert scores['_step'] == 20  # the end of a phase is the start of the next
    for prefix in ('evaluation', 'eval'):
        found = [scores[f'{prefix}/{name}'] for name in ('success', 'episode.return')]
        assert found == [0.25, -3.0]
    online = history(read_records(written)[2])
    assert [row['_step'] for row in online] == [25]
    assert online[0]['training/episodes'] == 1
    assert 'training/empty' not in online[0]


def test_a_run_that_is_continued_goes_on_in_its_wandb_runs(written, tmp_path):
    found = [description(records) for records in read_records(written)]
    ids = [run.run_id for run in found]
    assert len(set(ids)) == 2  # seeds
    assert ids[:2] == ids[2:]
    assert ids[0].endswith('-sd003')
    assert wandb_runs._kept_id(tmp_path) != wandb_runs._kept_id(written)
    run = found[0]
    assert (run.project, run.entity, run.run_group) == ('study', 'team', 'group')
    assert list(run.tags) == ['one', 'two']
    assert run.display_name == f'{written.name}-sd003'


def test_without_an_account_it_logs_offline_and_says_so_in_a_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('NETRC', str(tmp_path / 'none'))
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    with caplog.at_level(logging.WARNING):
        start(tmp_path, seeds=[3], wandb_mode='online').close()
    (message,) = caplog.messages
    assert message.startswith('--wandb_mode=online: did not start (no account')
    assert f'logging offline, `wandb sync {tmp_path / "wandb"}` uploads it' in message
    assert len(read_records(tmp_path)) == 1


def test_a_signal_while_wandb_starts_is_not_taken_for_its_error(tmp_path, monkeypatch):
    def interrupt(*_):
        raise Interrupted('by SIGTERM')

    monkeypatch.setattr(wandb_runs, '_start', interrupt)
    with pytest.raises(Interrupted):
        start(tmp_path)


def test_no_error_of_wandb_ends_a_run(tmp_path, monkeypatch, caplog):
    class Broken:
        def log(self, *_, **__):
            raise RuntimeError('two\nlines')

        def finish(self):
            raise OSError('gone')

    monkeypatch.setattr(wandb_runs, '_start', lambda *_: Broken())
    log = start(tmp_path)
    for step in (10, 20):
        log.write('offline', 'offline', step, [{'x': 1.0}] * 2)
    log.close()
    start(tmp_path).close()
    assert caplog.messages == [
        'W&B: stopped logging (two lines); continuing without.',
        'W&B: did not end (gone); continuing without.',
    ]
