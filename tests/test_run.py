"""Runs: the same again gives the same, however often it is left, and whatever is saved."""

import json
import os
import signal

import jax
import numpy as np
import pytest
import toy_suite
from processes import run_python
from small_runs import At, assert_equal_outcomes, make_config, outcome, read_table, start, stop

from envs.collection import collect
from envs.processes import SIGNALS
from training import Interrupted, checkpoints, load_agent, load_policy, train
from training.evaluation import headline
from training.logs import read_status


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of the defaults of `make_config`, never saved but at the end of its phases."""
    config = make_config(tmp_path_factory.mktemp('run'), save_minutes=0)
    return config, start(config)


def with_path(config, tmp_path, **changes):
    """Returns the same run elsewhere."""
    return type(config).from_json(config.to_json() | {'save_dir': str(tmp_path)} | changes)


class Interrupter:
    """Sends this process a signal at some rows of the tables, never twice at the same row."""

    def __init__(self, every):
        self.every, self.seen, self.sent = every, set(), 0

    def __call__(self, table, phase, step, rows):
        row = table, phase, step
        if row not in self.seen:
            self.seen.add(row)
            if len(self.seen) % self.every == 0:
                self.sent += 1
                os.kill(os.getpid(), SIGNALS[self.sent % len(SIGNALS)])


def start_until_complete(config, interrupter):
    """Starts a run again and again; returns its result and how often it was interrupted."""
    interruptions = 0
    while True:
        try:
            return start(config, interrupter), interruptions
        except Interrupted:
            assert read_status(newest(config))['status'] == 'interrupted'
            interruptions += 1


def test_what_is_printed_after_an_interruption_has_a_line_of_its_own(finished, tmp_path, capsys):
    with pytest.raises(Interrupted) as error:  # which keeps all of the run in its traceback
        train(with_path(finished[0], tmp_path), Interrupter(3))
    printed = capsys.readouterr().err
    assert 'offline: ' in printed
    assert printed.endswith('\n')
    assert 'is saved' in str(error.value)


def test_an_interruption_is_one_even_if_a_library_makes_another_error_of_it(tmp_path, monkeypatch):
    def make_dataset(*_, **__):
        try:
            stop()
        except Exception as error:
            raise ValueError(f'Line 64: {error}') from error

    monkeypatch.setattr('envs.make_dataset', make_dataset)
    with pytest.raises(
        Interrupted, match=r'^Interrupted by SIGTERM while starting; nothing is lost$'
    ):
        start(make_config(tmp_path))


def newest(config):
    (folder,) = config.directory.parent.iterdir()
    return folder


def test_a_run_that_is_left_again_and_again_ends_as_if_it_had_not_been(finished, tmp_path):
    """Nor does it change anything that its state is saved at every second step."""
    config, result = finished
    again, interruptions = start_until_complete(
        with_path(config, tmp_path, save_interval=2), Interrupter(2)
    )
    assert interruptions >= 6
    assert_equal_outcomes(result.directory, again.directory)
    assert again.scores == result.scores


@pytest.mark.parametrize(
    'changes',
    [
        {'overlap': False},
        {'num_seeds': 2},
        {'dataset_proportion': 0.5, 'offline_batch_ratio': 0.5},
    ],
)
def test_so_does_one_without_overlap_of_several_seeds_or_with_other_batches(
    finished, tmp_path, changes
):
    config = make_config(tmp_path, **changes)
    result = start(config)
    tables = [read_table(each.directory / 'offline.csv') for each in (finished[1], result)]
    assert (tables[0] == tables[1]) is ('overlap' in changes)
    again, interruptions = start_until_complete(
        with_path(config, tmp_path / 'again'), Interrupter(3)
    )
    assert interruptions >= 3
    assert_equal_outcomes(result.directory, again.directory)


def test_shards_take_turns_and_a_run_that_is_left_between_them_goes_on(tmp_path):
    """Signals between changes of shards; equal bits in the end."""
    data = {'num_workers': 1, 'num_shards': 3, 'num_val_episodes': 0}
    collect(toy_suite.suite, toy_suite.DATASET, 30, tmp_path / 'data', **data)
    changes = {'dataset_replace_interval': 4, 'log_interval': 5, 'save_interval': 3}
    config = make_config(tmp_path, **changes, eval_interval=0, online_steps=0)
    whole = start(config)
    assert len(json.loads((whole.directory / 'flags.json').read_text())['data']['files']) == 3

    leave = At({('offline', 'offline', step): stop for step in (5, 15)})
    again = with_path(config, tmp_path / 'again')
    for _ in range(2):
        with pytest.raises(Interrupted):
            start(again, leave)
    assert_equal_outcomes(whole.directory, start(again).directory)


def test_a_complete_run_is_not_started_again_unless_anew_beside_it(finished, tmp_path):
    config = with_path(finished[0], tmp_path, online_steps=0)
    first = start(config)
    assert first.directory == config.directory
    before = (first.directory / 'eval.csv').read_bytes()
    again = start(config)
    assert again.was_complete
    assert (again.directory, again.scores) == (first.directory, first.scores)
    assert (first.directory / 'eval.csv').read_bytes() == before
    fresh = start(config, fresh=True)
    assert fresh.directory.name == f'{first.directory.name}-2'
    assert_equal_outcomes(first.directory, fresh.directory)
    assert start(config).directory == fresh.directory  # the newest


def test_a_run_may_be_shorter_than_a_chunk_and_have_any_seed(tmp_path):
    steps = {'offline_steps': 1, 'online_steps': 1, 'start_training': 0, 'horizon_length': 3}
    directory = start(make_config(tmp_path, seed=2**32 - 1, **steps)).directory
    (row,) = read_table(directory / 'online.csv')
    assert (row['step'], row['seed']) == ('1', str(2**32 - 1))
    assert float(row['critic/loss']) > 0
    arrays, _ = outcome(directory)
    assert arrays['replays/rows/num_starts'].tolist() == [3]  # of the chunk


def test_other_data_of_the_same_name_is_refused(finished, tmp_path):
    config = make_config(tmp_path)
    with pytest.raises(Interrupted, match=r'by SIG\w+ at offline step \d+; its state is saved'):
        start(config, Interrupter(2))
    toy_suite.write_dataset(tmp_path / 'data', 10)
    with pytest.raises(ValueError, match='was made with other data of the same name'):
        start(config)


def test_a_complete_run_is_one_of_the_data_that_is_here(tmp_path):
    config = make_config(tmp_path, offline_steps=5, online_steps=0, eval_episodes=0)
    first = start(config)
    toy_suite.write_dataset(tmp_path / 'data', 10)
    with pytest.raises(
        ValueError, match=r'was made with other data of the same name; restore .*--fresh'
    ):
        start(config)
    prints = [json.loads((each.directory / 'flags.json').read_text())['data']['fingerprint']
              for each in (first, start(config, fresh=True))]  # fmt: skip
    assert prints[0] != prints[1]
    (tmp_path / 'data' / 'toy-data-v0.npz').unlink()
    assert start(config).was_complete  # of data that is not here nothing is known, or fetched
    assert not list((tmp_path / 'data').iterdir())


def test_a_run_that_begins_anew_says_of_which_data(tmp_path):
    config = make_config(tmp_path, offline_steps=5, online_steps=0, eval_episodes=0)
    path = config.directory / 'flags.json'
    path.parent.mkdir(parents=True)
    path.write_text('{"data": {"fingerprint": "of a run that was killed before it was saved"}}')
    start(config)
    assert len(json.loads(path.read_text())['data']['fingerprint']) == 16


def test_an_error_in_a_callback_is_in_the_status_and_costs_nothing(finished, tmp_path):
    config = with_path(finished[0], tmp_path)
    with pytest.raises(ZeroDivisionError):
        start(config, At({('eval', 'online', 25): lambda: 1 / 0}))
    status = read_status(config.directory)
    assert (status['status'], status['error']) == ('failed', 'ZeroDivisionError: division by zero')
    assert list(config.directory.glob('checkpoints/online-*25.npz'))  # saved before it was raised
    assert_equal_outcomes(finished[1].directory, start(config).directory)


def test_a_robot_that_tells_no_success_is_trained_and_scored_by_its_return(tmp_path, caplog):
    """Its episodes cannot be replayed, so a resumed run truncates the open one."""
    config = make_config(tmp_path, suite='odd_suites:restless')
    with pytest.raises(Interrupted):
        start(config, lambda table, *_: table == 'online' and os.kill(os.getpid(), signal.SIGHUP))
    result = start(config)
    said = [text for text in caplog.messages if 'is not deterministic' in text]
    assert ['reset(seed=0)' in text for text in said][:2] == [True, True]
    arrays, tables = outcome(result.directory)
    (num_starts,) = arrays['replays/rows/num_starts']
    assert 60 <= num_starts <= 62  # the last chunk is executed whole
    assert {row['success'] for row in tables['eval']} == {''}
    assert {row['episode_success'] for row in tables['online']} == {''}
    assert result.scores[0]['success'] is None
    assert headline(result.scores) == ('return', f'{result.scores[0]["return"]:.4g}')
    assert (result.directory / 'learning_curve.png').exists()


def test_a_policy_is_loaded_in_one_call_and_acts_as_the_agent_did(finished):
    config, result = finished
    policy = load_policy(result.directory)
    agent, metadata = load_agent(result.directory / 'checkpoints' / 'online-000000060')
    observations, rng = np.zeros((4, 3), np.float32), jax.random.PRNGKey(0)
    chunks = policy.sample_actions(observations, rng)
    assert chunks.shape == (4, 3, 1)
    np.testing.assert_array_equal(chunks, agent.sample_actions(observations, rng))
    assert metadata['config'] == json.loads(json.dumps(config.to_json()))
    sizes = [len(jax.tree.leaves(x)) for x in (policy, agent)]
    assert sizes[0] < sizes[1] / 3


def test_a_run_can_start_from_another_ones_agent(finished, tmp_path):
    config, result = finished
    offline = result.directory / 'checkpoints' / 'offline-000000020'
    changes = {'offline_steps': 0, 'restore_path': str(offline), 'start_training': 1000}
    started = start(with_path(config, tmp_path, **changes))
    old, new = load_agent(offline)[0], load_agent(started.directory)[0]
    jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
    rows = read_table(started.directory / 'online.csv')
    assert {row['critic/loss'] for row in rows} == {''}  # there were no updates
    rows = read_table(started.directory / 'eval.csv')
    before = [row for row in read_table(result.directory / 'eval.csv') if row['step'] == '20']
    assert rows[0]['return'] == before[0]['return']
    with pytest.raises(checkpoints.CheckpointError, match='does not fit this agent'):
        start(with_path(config, tmp_path, agent=make_config(tmp_path, agent={'num_qs': 3}).agent,
                        restore_path=str(offline)))  # fmt: skip


def test_each_seed_of_several_has_its_own_rows_and_policy(tmp_path):
    result = start(make_config(tmp_path, num_seeds=2, seed=4, online_steps=15, eval_interval=100))
    assert '-sd004-005-' in result.directory.name
    assert len(result.scores) == 2
    for table in ('offline', 'online', 'eval'):
        rows = read_table(result.directory / f'{table}.csv')
        assert [row['seed'] for row in rows] == ['4', '5'] * (len(rows) // 2)
    policies = [load_policy(result.directory, seed).params for seed in (4, 5)]
    leaves = [jax.tree.leaves(params)[1] for params in policies]
    assert not np.array_equal(leaves[0], leaves[1])


@pytest.mark.slow
def test_several_seeds_start_from_their_own_agents_and_others_from_the_first(tmp_path):
    config = make_config(tmp_path, num_seeds=2, seed=4, online_steps=15)
    offline = start(config).directory / 'checkpoints' / 'offline-000000020'
    changes = {'offline_steps': 0, 'restore_path': str(offline), 'start_training': 1000}
    started = start(with_path(config, tmp_path / 'new', seed=5, **changes)).directory
    old = [load_agent(offline, seed)[0].params for seed in (5, 4)]
    new = [load_agent(started, seed)[0] for seed in (5, 6)]
    jax.tree.map(np.testing.assert_array_equal, old, [agent.params for agent in new])
    assert not np.array_equal(new[0].rng, new[1].rng)


@pytest.mark.slow
def test_a_checkpoint_of_one_device_goes_on_on_two_to_the_numbers_of_one(tmp_path):
    """Of three seeds one device has one, the other two."""
    config = make_config(tmp_path, num_seeds=3, online_steps=30)
    whole = start(with_path(config, tmp_path / 'whole'))
    with pytest.raises(Interrupted, match='at online'):
        start(config, At({('online', 'online', 10): stop}))
    program = """
import json, sys, jax
from training import RunConfig, train

used = set()
note = lambda *_: used.update(*(x.devices() for x in jax.live_arrays()))
train(RunConfig.from_json(json.loads(sys.argv[1])), note, show_progress=False)
assert len(used) == 2
"""
    devices = {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'}
    run_python('-c', program, json.dumps(config.to_json()), env=devices, check=True)
    assert len(read_status(config.directory)['starts']) == 2
    (arrays, _), (others, _) = outcome(config.directory), outcome(whole.directory)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, others[name], rtol=1e-3, atol=1e-4, err_msg=name)
