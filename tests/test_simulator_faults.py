"""Simulators that die, hang or raise are replaced, and the run goes on."""

import logging
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver

import faulty_suite
import flax
import jax
import numpy as np
import pytest
import toy_suite
from faulty_suite import order
from small_runs import AGENT, assert_equal_outcomes, make_config, outcome, read_table

from envs import SimulatorError, end, find_task, make_vector_env
from envs.vector import ParallelEnvs
from training import Interrupted, checkpoints, train
from training.evaluation import evaluate
from training.logs import read_status
from utils.errors import UserError
from utils.seeds import stack

ROOT = pathlib.Path(__file__).parent.parent
TASK = find_task(toy_suite.ENV_NAME, faulty_suite.suite)
HORIZON = 3
CHUNKS = np.full((2, HORIZON, 1), 0.01, np.float32)  # hardly a push: episodes take all their time

KINDS = {
    'die': r'died \(SIGKILL\)',
    'stop': 'gave no answer for 1 s',
    'raise': 'raised ZeroDivisionError: by design',
}


@pytest.fixture
def faults(tmp_path):
    directory = tmp_path / 'faults'
    directory.mkdir()
    return directory


@pytest.fixture
def make(faults):
    """Makes environments that are ended after the test."""
    made = []

    def make(mode, num_envs=2):
        env = make_vector_env(
            TASK, num_envs, HORIZON, mode, worker_timeout=1.0, fault_dir=str(faults)
        )
        made.append(env)
        return env

    yield make
    for env in made:
        end(env)


def begin(env, episode=4):
    env.set_attr('start', [(seed, episode, np.zeros((0, 1))) for seed in range(env.num_envs)])
    return env.reset()


def play(env, *lengths):
    observations, _, _, _, info = env.step((CHUNKS[: env.num_envs], np.array(lengths)))
    return observations, info


def warnings(caplog):
    """Returns what was said of replaced simulators."""
    told = [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]
    return [message for message in told if message.endswith('it is replaced.')]


@pytest.mark.parametrize('kind', KINDS)
def test_a_simulator_that_fails_is_replaced_and_plays_the_next_episode(make, faults, kind, caplog):
    env, other = make('play'), make('play')
    begin(env)
    play(env, 2, 2)
    first, second = env.processes
    order(faults, (kind, 3))
    observations, info = play(env, 0, 3)
    assert info['replaced'].tolist() == [0, 1]
    assert info['episode'].tolist() == [4, 5]
    assert info['transitions']['length'].tolist() == [0, 0]
    assert info['transitions']['done'].tolist() == [False, True]
    assert not info['success'].any()
    np.testing.assert_array_equal(observations[1], begin(other, 5)[0][1])
    name = re.escape('toy-push-v0 (play): simulator 2 of 2')
    (warning,) = warnings(caplog)
    assert re.fullmatch(f'{name} {KINDS[kind]}; it is replaced.', warning)
    assert env.processes[0] is first
    assert not second.is_alive()
    # From now on it is an environment like another one.
    play(env, 1, 0)
    after, info = play(env, 0, 2)
    expected, expected_info = play(other, 0, 2)
    np.testing.assert_array_equal(after[1], expected[1])
    assert info['replaced'].tolist() == [0, 0]
    for name, value in info['transitions'].items():
        np.testing.assert_array_equal(value[1], expected_info['transitions'][name][1])


def test_a_simulator_that_fails_while_it_is_placed_is_replaced_where_it_was_placed(make, faults):
    env, other = make('play'), make('play')
    actions = np.full((4, 1), 0.01, np.float32)
    for each in (other, env):
        each.set_attr('start', [(seed, 3, actions) for seed in (0, 1)])
        observations, info = each.reset()
        assert info['episode'].tolist() == [3, 3]
        if each is other:
            expected = observations
            order(faults, ('die', 2), ('raise', 0))
    np.testing.assert_array_equal(observations, expected)
    assert not list(faults.iterdir())


def test_the_third_failure_in_a_row_is_an_error_with_the_simulators_own_traceback(make, faults):
    env = make('play', 1)
    begin(env)
    order(faults, ('die', 1), ('stop', 0), ('raise', 0))
    message = (
        r'simulator 1 of 1 failed 3 times in a row; at last it raised ZeroDivisionError: by design '
        r'\(its traceback is above; correct the environment\)'
    )
    with pytest.raises(SimulatorError, match=message) as error:
        play(env, 1)
    (trace,) = error.value.__notes__
    assert trace.startswith('Traceback')
    assert 'in _fail' in trace
    assert trace.endswith('ZeroDivisionError: by design')


def test_an_answer_in_between_ends_a_row(make, faults):
    env = make('play', 1)
    begin(env)
    for _ in range(4):
        order(faults, ('die', 1), ('die', 0))
        assert play(env, 1)[1]['replaced'] == 2
        assert play(env, 0)[1]['replaced'] == 0
    order(faults, *[('raise', 1)] * 3)
    assert play(env, 1)[1]['replaced'] == 1
    assert play(env, 1)[1]['replaced'] == 1
    with pytest.raises(SimulatorError, match='3 times in a row'):
        play(env, 1)


def test_what_only_the_user_can_put_right_is_said_at_once(make, faults, caplog):
    env = make('play')
    begin(env)
    order(faults, ('refuse', 1))
    with pytest.raises(UserError, match=r'^as its user can put right$'):
        play(env, 1, 0)
    assert not warnings(caplog)


def test_an_environment_that_cannot_be_made_is_an_error_at_once():
    def make():
        raise ZeroDivisionError('by design')

    before = set(multiprocessing.active_children())
    with pytest.raises(SimulatorError, match='mine: simulator 1 of 1 failed 3 times in a row'):
        ParallelEnvs(make, 1, 'mine', timeout=20)
    assert set(multiprocessing.active_children()) == before


def test_the_program_itself_makes_no_environment(make, monkeypatch):
    monkeypatch.setattr('envs.registry.make_env', None)
    env = make('play')
    assert env.single_observation_space.shape == (3,)
    assert begin(env)[0].shape == (2, 3)


def test_the_process_that_starts_the_others_is_replaced_too(make, faults):
    env = make('play')
    begin(env)
    pid = forkserver._forkserver._forkserver_pid
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    order(faults, ('die', 1))
    assert play(env, 0, 3)[1]['replaced'].tolist() == [0, 1]
    assert play(env, 3, 3)[1]['transitions']['length'].tolist() == [3, 3]
    assert forkserver._forkserver._forkserver_pid != pid


def test_where_a_simulator_hangs_is_printed_before_the_run_ends(tmp_path):
    order(tmp_path, ('sleep', 1), ('sleep', 0), ('sleep', 0))
    code = f"""
import numpy as np, envs, faulty_suite, toy_suite

envs.vector.GRACE = 0.5
task = envs.find_task(toy_suite.ENV_NAME, faulty_suite.suite)
env = envs.make_vector_env(task, 1, 3, 'evaluate', worker_timeout=1.0, fault_dir={str(tmp_path)!r})
env.set_attr('queue', [[(0, 0)]])
env.reset()
env.step(np.zeros((1, 3, 1), np.float32))
"""
    path = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=path)
    assert run.returncode == 1
    stack, _, error = run.stderr.partition('SimulatorError: ')
    assert re.search(r'faulty_suite.py", line \d+ in _fail', stack)
    assert 'at last it gave no answer for 1 s (where it hangs is above' in error


# ---- evaluation ---------------------------------------------------------------------------------


class Policy(flax.struct.PyTreeNode):
    """Its actions are small noise."""

    scale: float = 0.2

    def sample_actions(self, observation, rng):
        return self.scale * jax.random.uniform(rng, (HORIZON, 1), minval=-1) + 0 * observation[0]


def score(env):
    return evaluate([stack([Policy()])], env, num_episodes=7, seeds=[3])


def test_an_evaluation_with_faults_has_the_scores_of_one_without_bit_by_bit(make, faults, caplog):
    expected = score(make('evaluate', 3))
    assert not warnings(caplog)
    env = make('evaluate', 3)
    order(
        faults, ('raise', 0), ('raise', 4), ('raise', 4), ('stop', 7), ('die', 10), ('die', 1),
        ('raise', 8),
    )  # fmt: skip
    assert score(env) == [expected[0] | {'replaced_workers': 7}]
    assert not list(faults.iterdir())
    assert len(warnings(caplog)) == 7
    assert score(env) == expected  # the environments are whole again


def test_an_episode_may_fail_often_if_each_time_elsewhere(make, faults):
    expected = score(make('evaluate', 1))
    env = make('evaluate', 1)
    order(faults, ('raise', 8), ('die', 5), ('raise', 2), ('die', 8), ('raise', 4))
    assert score(env) == [expected[0] | {'replaced_workers': 5}]
    assert not list(faults.iterdir())


def test_an_episode_that_always_fails_ends_the_evaluation(make, faults):
    env = make('evaluate')
    order(faults, ('bug', 8))  # the third chunk; the first two are answered every time
    with pytest.raises(SimulatorError, match='3 times in a row; at last it raised ZeroDivision'):
        score(env)


# ---- whole runs ---------------------------------------------------------------------------------


def faulty_config(tmp_path, faults, **changes):
    settings = {
        'suite': 'faulty_suite:suite',
        'env_options': {'toy_dataset_dir': str(tmp_path / 'data'), 'fault_dir': str(faults)},
        'worker_timeout': 1.0,
        'save_minutes': 0,
        'eval_interval': 100,  # only at the ends of the phases: faults in between are of play
    }
    return make_config(tmp_path, **(settings | changes))


def start(config, on_metrics=lambda *_: None):
    return train(config, on_metrics, show_progress=False)


class At:
    """Does something after the rows of a step, the first time that they are written."""

    def __init__(self, actions):
        self.actions = dict(actions)

    def __call__(self, table, phase, step, rows):
        self.actions.pop((table, phase, step), lambda: None)()


def num_transitions(directory):
    """Returns how many online transitions each seed has in its replay."""
    return outcome(directory)[0]['seeds/0/rows/num_starts'].tolist()


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """Of runs without overlap."""
    tmp_path = tmp_path_factory.mktemp('undisturbed')
    (tmp_path / 'faults').mkdir()
    return start(faulty_config(tmp_path, tmp_path / 'faults', overlap=False)).directory


@pytest.mark.parametrize('changes', [{}, {'num_seeds': 2, 'overlap': False}])
def test_a_run_goes_on_with_other_simulators_and_counts_them(tmp_path, faults, changes):
    config = faulty_config(tmp_path, faults, **changes)
    seeds = 1 + ('num_seeds' in changes)
    at = At(
        {
            ('online', 'online', 10): lambda: order(faults, ('die', 2), ('raise', 0)),
            ('online', 'online', 30): lambda: order(faults, ('stop', 2)),
            ('online', 'online', 40): lambda: os.kill(os.getpid(), signal.SIGTERM),
        }
    )
    with pytest.raises(Interrupted, match='at online step 40'):
        start(config, at)
    result = start(config)
    assert read_status(result.directory)['status'] == 'done'
    assert not list(faults.iterdir())
    rows = read_table(result.directory / 'online.csv')
    assert sum(int(row['replaced_workers']) for row in rows) == 3
    assert len(rows) == 6 * seeds
    assert num_transitions(result.directory) == [60] * seeds


@pytest.mark.parametrize(('kind', 'what'), [('blind', 'an observation'), ('reward', 'a reward')])
def test_what_an_evaluation_is_given_is_finite_or_the_run_ends(tmp_path, faults, kind, what):
    config = faulty_config(tmp_path, faults, online_steps=0, eval_interval=10, log_interval=0)
    at = At({('eval', 'offline', 10): lambda: order(faults, (kind, 3))})
    with pytest.raises(UserError, match=rf'evaluation of seed 0, episode \d: .* gave {what} that'):
        start(config, at)
    assert read_status(config.directory)['status'] == 'failed'
    assert [row['step'] for row in read_table(config.directory / 'eval.csv')] == ['0', '10']


def test_an_evaluation_counts_the_simulators_that_were_replaced(tmp_path, faults):
    config = faulty_config(tmp_path, faults, online_steps=0, eval_interval=10)
    at = At({('eval', 'offline', 0): lambda: order(faults, ('die', 2), ('raise', 0))})
    rows = read_table(start(config, at).directory / 'eval.csv')
    assert [row['replaced_workers'] for row in rows] == ['0', '2', '0']


def test_the_third_failure_ends_a_run_that_the_same_command_continues(
    tmp_path, faults, undisturbed
):
    config = faulty_config(tmp_path, faults, overlap=False)
    at = At({('online', 'online', 20): lambda: order(faults, ('die', 2), ('raise', 0), ('die', 0))})
    with pytest.raises(
        SimulatorError, match=r'At online step \d\d its state is saved; start it again'
    ):
        start(config, at)
    status = read_status(config.directory)
    assert status['status'] == 'failed'
    assert status['error'].startswith('SimulatorError: toy-push-v0 (play): simulator 1 of 1 failed')
    saved = checkpoints.find(config.directory)
    assert saved.name == f'online-{status["step"]:09d}'
    result = start(config)
    # The chunk that failed was left out, and is played now.
    assert_equal_outcomes(result.directory, undisturbed)


def test_so_does_one_in_an_evaluation_and_one_while_simulators_are_placed(
    tmp_path, faults, undisturbed
):
    config = faulty_config(tmp_path, faults, overlap=False)
    at = At(
        {
            ('online', 'online', 60): lambda: order(faults, ('bug', 1)),  # then it evaluates
            ('eval', 'offline', 20): lambda: order(faults, *[('die', 0)] * 3),
        }
    )
    with pytest.raises(SimulatorError, match=r'\(play\): .* At offline step 20 its state is saved'):
        start(config, at)
    with pytest.raises(
        SimulatorError, match=r'\(evaluate\): .* At online step 60 its state is saved'
    ):
        start(config, at)
    assert checkpoints.find(config.directory).name == 'online-000000060.npz'
    (faults / '0-bug-1').unlink()
    assert_equal_outcomes(start(config).directory, undisturbed)


def test_the_program_says_so_in_one_line_after_the_traceback(tmp_path, faults):
    order(faults, ('bug', 2))
    run = subprocess.run(
        [
            sys.executable,
            'main.py',
            '--suite=faulty_suite:suite',
            f'--env_name={toy_suite.ENV_NAME}',
            f'--toy_dataset_dir={tmp_path}',
            f'--fault_dir={faults}',
            f'--save_dir={tmp_path}',
            '--offline_steps=3',
            '--online_steps=7',
            '--compilation_cache_dir=',
            *(f'--agent.{name}={value}' for name, value in AGENT.items()),
        ],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT / 'tests')},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert lines[-1].startswith('toy-push-v0 (evaluate): simulator ')
    assert lines[-1].endswith('At offline step 0 its state is saved; start it again to continue')
    assert lines[-2] == 'ZeroDivisionError: by design'
    assert run.stderr.count('Traceback') == 1
