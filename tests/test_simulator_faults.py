"""Simulators that die, hang or raise are rebuilt where they were, and the run continues."""

import logging
import multiprocessing
import re
from functools import partial

import faulty_suite
import jax
import numpy as np
import pytest
import toy_suite
from faulty_suite import order
from small_runs import At, assert_equal_outcomes, make_config, outcome, read_table, start, stop

from envs import SimulatorError, Simulators, Start, find_task, make_simulators
from training import Interrupted, checkpoints
from training.logs import read_status
from utils.errors import UserError

pytestmark = pytest.mark.slow
TASK = find_task(toy_suite.ENV_NAME, faulty_suite.suite)
HORIZON = 3
NAME = 'toy-push-v0: simulator'
KINDS = {
    'die': r'died \(exit code -9; out of memory\?\)',
    'stop': r'did not answer for 2 s \(--worker_timeout\)',
    'raise': 'raised ZeroDivisionError: by design',
}


@pytest.fixture
def faults(tmp_path):
    directory = tmp_path / 'faults'
    directory.mkdir()
    return directory


@pytest.fixture
def make(faults):
    """Makes simulators that are ended after the test."""
    made = []

    def make(num_envs=2):
        simulators = make_simulators(
            TASK, num_envs, HORIZON, worker_timeout=2.0, fault_dir=str(faults)
        )
        made.append(simulators)
        return simulators

    yield make
    for simulators in made:
        simulators.end()


def begin(simulators):
    return simulators.begin({i: Start(40 + i) for i in range(simulators.num_envs)})


def play(simulators, *lengths):
    """Executes so many actions in each simulator, which hardly push: episodes last long."""
    chunks = {i: np.full((n, 1), 0.01, np.float32) for i, n in enumerate(lengths) if n}
    return simulators.play(chunks)


def assert_equal_answers(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def warnings(caplog):
    """Returns what was said of simulators that failed."""
    told = [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]
    return [message for message in told if 'rebuilt' in message]


@pytest.mark.parametrize('kind', KINDS)
def test_a_simulator_that_fails_is_built_anew_where_it_was(make, faults, kind, caplog):
    simulators, other = make(), make()
    for each in (simulators, other):
        begin(each)
        play(each, 1, 2)
    order(faults, (kind, 3))
    assert_equal_answers(play(simulators, 0, 3), play(other, 0, 3))
    failures, error = simulators.take_failures()
    assert (failures.tolist(), error) == ([0, 1], None)
    (warning,) = warnings(caplog)
    assert re.fullmatch(f'{NAME} 2 of 2 {KINDS[kind]}; all simulators are rebuilt .*', warning)
    # The other one is where it was, too.
    assert_equal_answers(play(simulators, 3, 1), play(other, 3, 1))
    assert simulators.take_failures()[0].tolist() == [0, 0]


def test_so_is_one_that_fails_while_it_is_made_or_begins_an_open_episode(make, faults):
    simulators, other = make(1), make(1)
    starts = {0: Start(40, [np.full((4, 1), 0.01, np.float32)])}
    expected = other.begin(starts)
    simulators.wait()
    order(faults, ('die', 4), ('raise', 0))
    assert_equal_answers(simulators.begin(starts), expected)
    assert not list(faults.iterdir())
    assert simulators.take_failures()[0] == [2]


def test_one_that_fails_again_loses_its_episode_and_the_others_go_on(make, faults):
    simulators, other = make(), make()
    begin(simulators), begin(other)
    order(faults, ('die', 2), ('raise', 2))  # whoever is first
    answers = play(simulators, 0, 3)
    assert answers == {1: None}
    assert simulators.playing == {0}
    failures, error = simulators.take_failures()
    assert failures.tolist() == [0, 2]
    assert re.fullmatch(
        f'{NAME} 2 of 2 raised ZeroDivisionError: by design, twice after 0 actions of the episode '
        r'that reset\(seed=41\) begins, which ends there',
        str(error),
    )
    (trace,) = error.__notes__
    assert trace.startswith('Traceback')
    assert 'in _fail' in trace
    assert trace.endswith('ZeroDivisionError: by design')
    assert_equal_answers(play(simulators, 2, 0), play(other, 2, 0))
    assert_equal_answers(simulators.begin({1: Start(7)}), other.begin({1: Start(7)}))
    assert simulators.take_failures()[1] is None


def test_what_only_the_user_can_put_right_is_said_at_once(make, faults, caplog):
    simulators = make()
    begin(simulators)
    order(faults, ('refuse', 1))
    with pytest.raises(UserError, match=r'^as its user can put right$'):
        play(simulators, 1, 0)
    assert not warnings(caplog)


def test_a_simulator_that_cannot_be_made_is_an_error():
    before = set(multiprocessing.active_children())
    simulators = Simulators(partial(int, 'by design'), 1, 'mine', timeout=20)
    with pytest.raises(
        SimulatorError, match=r'^mine: simulator 1 of 1 raised ValueError: .*by design'
    ):
        simulators.wait()
    simulators.end()
    assert set(multiprocessing.active_children()) == before


# ---- whole runs ---------------------------------------------------------------------------------


def faulty_config(tmp_path, faults, **changes):
    settings = {
        'suite': 'faulty_suite:suite',
        'env_options': {'toy_dataset_dir': str(tmp_path / 'data'), 'fault_dir': str(faults)},
        'worker_timeout': 2.0,
        'save_minutes': 0,
        'eval_interval': 100,  # only at the ends of the phases: faults in between are of play
    }
    return make_config(tmp_path, **(settings | changes))


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """A run without faults."""
    tmp_path = tmp_path_factory.mktemp('undisturbed')
    (tmp_path / 'faults').mkdir()
    return start(faulty_config(tmp_path, tmp_path / 'faults')).directory


def test_a_run_goes_on_as_if_nothing_had_happened_and_counts_the_failures(
    tmp_path, faults, undisturbed
):
    config = faulty_config(tmp_path, faults)
    at = At(
        {
            ('eval', 'offline', 0): lambda: order(faults, ('die', 1)),  # in an evaluation
            ('online', 'online', 10): lambda: order(faults, ('raise', 2)),
            ('online', 'online', 30): lambda: order(faults, ('stop', 2)),
            ('online', 'online', 40): stop,
            ('online', 'online', 60): lambda: order(faults, ('stop', 1)),  # in an evaluation
        }
    )
    with pytest.raises(Interrupted, match='at online step 40'):
        start(config, at)
    result = start(config, at)
    assert read_status(result.directory)['status'] == 'done'
    assert not list(faults.iterdir())
    assert_equal_outcomes(result.directory, undisturbed, ('seconds', 'simulator_failures'))
    tables = [read_table(result.directory / f'{name}.csv') for name in ('eval', 'online')]
    failures = [[int(row['simulator_failures']) for row in table] for table in tables]
    assert failures == [[0, 1, 1, 1], [0, 1, 0, 1, 0, 0]]  # of one evaluation there are two rows


def test_what_an_evaluation_is_given_is_finite_or_the_run_ends(tmp_path, faults):
    config = faulty_config(tmp_path, faults, online_steps=0, eval_interval=10, log_interval=0)
    at = At({('eval', 'offline', 10): lambda: order(faults, ('blind', 3))})
    with pytest.raises(UserError, match=r'evaluation of seed 0, episode \d: .* observation'):
        start(config, at)
    assert read_status(config.directory)['status'] == 'failed'
    assert [row['step'] for row in read_table(config.directory / 'eval.csv')] == ['0', '10']


def test_an_episode_that_always_fails_ends_the_run_and_the_same_command_goes_on_after_it(
    tmp_path, faults
):
    config = faulty_config(tmp_path, faults)
    at = At({('online', 'online', 20): lambda: order(faults, ('bug', 2))})
    for _ in range(2):
        with pytest.raises(
            SimulatorError, match=r'twice after .* At online step \d\d its state is saved; start it'
        ):
            start(config, at)
        status = read_status(config.directory)
        assert status['status'] == 'failed'
        assert status['error'].startswith(f'SimulatorError: {NAME} 1 of 1 raised ZeroDivisionError')
        saved = checkpoints.find(config.directory)
        assert saved.name == f'online-{status["step"]:09d}.npz'
    (faults / '0-bug-2').unlink()
    result = start(config)
    arrays, tables = outcome(result.directory)
    assert 60 <= arrays['replays/rows/num_starts'][0] < 63  # the last chunk is played to its end
    assert sum(int(row['simulator_failures']) for row in tables['online']) == 4


def test_simulators_that_cannot_be_made_again_end_the_run_which_the_same_command_continues(
    tmp_path, faults
):
    config = faulty_config(tmp_path, faults, overlap=False)
    at = At({('online', 'online', 20): lambda: order(faults, ('die', 2), *[('raise', 0)] * 2)})
    with pytest.raises(SimulatorError, match=r'by design. At online step \d\d its state is saved'):
        start(config, at)
    (tmp_path / 'other' / 'faults').mkdir(parents=True)
    other = faulty_config(tmp_path / 'other', tmp_path / 'other' / 'faults', overlap=False)
    # The chunk that failed was left out, and is played now.
    assert_equal_outcomes(start(config).directory, start(other).directory)


def test_a_run_without_evaluations_starts_no_simulators_for_them(tmp_path, monkeypatch):
    made = []
    real = Simulators.__init__
    monkeypatch.setattr(Simulators, '__init__', lambda *args: made.append(args[2]) or real(*args))
    result = start(make_config(tmp_path, eval_episodes=0, eval_envs=7, num_seeds=2))
    assert made == [1, 2]  # one looks at the environment before the training
    assert result.scores == ()
    assert (result.directory / 'eval.csv').read_text() == ''
    assert not (result.directory / 'learning_curve.png').exists()
    assert read_status(result.directory)['status'] == 'done'
    again = start(make_config(tmp_path, eval_episodes=0, eval_envs=7, num_seeds=2))
    assert again.was_complete
    assert not again.scores
