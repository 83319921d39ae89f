"""Runs in Weights & Biases, in its offline mode."""

import dataclasses
import logging
from unittest import mock

import pytest

from training import Interrupted, RunConfig, logs, wandb_runs

CONFIG = RunConfig(
    {'lr': 0.1}, seed=3, num_seeds=2, offline_steps=20, run_group='group', wandb_mode='offline',
    wandb_project='study', wandb_entity='team', wandb_tags='one, two',
)  # fmt: skip


def start(folder, **changes):
    """Returns the log of a run, and the W&B runs in it."""
    log = logs.RunLog(folder, dataclasses.replace(CONFIG, **changes), {})
    log.draw = lambda: None
    return log, log._wandb._runs


def test_steps_count_through_both_phases_and_numbers_have_the_names_of_fql_and_qc(tmp_path):
    log, (run, _) = start(tmp_path)
    run.log = mock.Mock(wraps=run.log)
    log.write('offline', 'offline', 10, [{'critic/loss': 1.0, 'critic/q_mean': 2.0}] * 2)
    score = {'success': 0.25, 'return': -3.0, 'length': 7.0}
    log.write('eval', 'offline', 20, [score] * 2)
    log.write('eval', 'online', 0, [score] * 2)
    log.write('online', 'online', 5, [{'critic/loss': 3.0, 'episodes': 1, 'empty': ''}] * 2)
    log.close()
    calls = run.log.call_args_list
    assert [call.kwargs['step'] for call in calls] == [10, 20, 20, 25]
    losses, scores, _, online = ({**call.args[0]} for call in calls)
    assert all(each.pop('time/total_time') >= 0 for each in (losses, scores, online))
    assert losses == {'training/critic/critic_loss': 1.0, 'training/critic/q_mean': 2.0}
    names = {'success': 0.25, 'episode.return': -3.0, 'episode.length': 7.0}
    assert scores == {f'{x}/{y}': names[y] for x in ('evaluation', 'eval') for y in names}
    assert online == {'training/critic/critic_loss': 3.0, 'training/episodes': 1}


def test_a_run_that_is_continued_goes_on_in_its_wandb_runs(tmp_path):
    log, first = start(tmp_path)
    log.close()
    log, second = start(tmp_path)
    log.close()
    ids = [run.id for run in (*first, *second)]
    assert len(set(ids)) == 2  # seeds
    assert ids[:2] == ids[2:]
    assert ids[0].endswith('-sd003')
    (tmp_path / 'other').mkdir()
    assert wandb_runs._kept_id(tmp_path / 'other') != wandb_runs._kept_id(tmp_path)
    run = first[0]
    assert (run.project, run.entity, run.group) == ('study', 'team', 'group')
    assert (run.tags, run.name) == (('one', 'two'), f'{tmp_path.name}-sd003')
    assert run.config['agent']['lr'] == 0.1
    assert len(list(tmp_path.glob('wandb/offline-run-*/*.wandb'))) >= 2


def test_without_an_account_it_logs_offline_and_says_so_in_a_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('NETRC', str(tmp_path / 'none'))
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    with caplog.at_level(logging.WARNING):
        start(tmp_path, num_seeds=1, wandb_mode='online')[0].close()
    (message,) = caplog.messages
    assert message.startswith('--wandb_mode=online: did not start (no account')
    assert f'logging offline, `wandb sync {tmp_path / "wandb"}` uploads it' in message
    assert list(tmp_path.glob('wandb/offline-run-*/*.wandb'))


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
    log, _ = start(tmp_path)
    for step in (10, 20):
        log.write('offline', 'offline', step, [{'x': 1.0}] * 2)
    log.close()
    start(tmp_path)[0].close()
    assert caplog.messages == [
        'W&B: stopped logging (two lines); continuing without.',
        'W&B: did not end (gone); continuing without.',
    ]
