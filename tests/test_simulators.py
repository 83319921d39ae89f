"""Environments in processes: what they import, what they obey, how they end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import toy_suite
from gymnasium.spaces import Box
from near_simulators import NearSimulators
from processes import PATHS, run_python

from envs import find_task, make_simulators
from envs.episodes import ActionChunks
from envs.simulators import Start, _make_chunks
from utils.errors import UserError

CUBE = 'cube-single-play-singletask-task1-v0'
TOY = find_task(toy_suite.ENV_NAME, toy_suite.suite)
HORIZON = 5

pytestmark = pytest.mark.slow
on_linux = pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='reads /proc')

# A user's programs, without a main guard. They print the pids of their simulators.
SLEEPER_PROGRAM = """
import time
from multiprocessing import active_children
import envs

class Sleeper:
    def begin(self, seed, chunks):
        return 0.0
    def play(self, chunk):
        time.sleep(60)

simulators = envs.Simulators(Sleeper, 2, 'mine', 90)
simulators.begin({i: envs.Start(0) for i in range(2)})
print(*[process.pid for process in active_children()], flush=True)
"""
CUBE_PROGRAM = """
import jax
import matplotlib
from multiprocessing import active_children
import envs

print('main program', flush=True)

def make():
    import envs.simulators
    task = envs.find_task('cube-single-play-singletask-task1-v0')
    chunks, play = envs.simulators._make_chunks(task, 5), envs.simulators.ActionChunks.play
    def told(chunk):
        import sys
        found = sorted({'jax', 'matplotlib', 'mujoco'} & set(sys.modules))
        print(f'{found}\\n', end='', flush=True)  # one write: both processes print
        return play(chunks, chunk)
    chunks.play = told
    return chunks

simulators = envs.Simulators(make, 2, 'cube', 60)
simulators.begin({i: envs.Start(i) for i in range(2)})
simulators.play({i: jax.numpy.zeros((5, 5)) for i in range(2)})
print(*[process.pid for process in active_children()], flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program from a file somewhere else, in a process group of its own."""
    started = []

    def start(code):
        path = tmp_path / 'program.py'
        path.write_text(code)
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
        process = subprocess.Popen(
            [sys.executable, path],
            cwd=tmp_path,
            env=os.environ | PATHS,
            start_new_session=True,
            **pipes,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def is_alive(pid):
    try:
        status = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return False
    return status.rsplit(')', 1)[1].split()[0] != 'Z'


def wait_until_gone(pids, seconds=5):
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, 'simulators outlive their parent'
        time.sleep(0.05)


def test_simulators_import_nothing_of_the_main_program(start):
    process = start(CUBE_PROGRAM)
    output, errors = process.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[:3] == ['main program', *["['mujoco']"] * 2], errors
    assert len(lines) == 4
    assert process.returncode == 0
    assert 'Traceback' not in errors
    wait_until_gone(list(map(int, lines[3].split())))


@on_linux
def test_simulators_end_without_a_word_when_the_program_is_killed(start):
    # One of them is in the middle of something, the other one waits for something to do.
    code = SLEEPER_PROGRAM + 'simulators.ask({0: [[0.0]]})\n'
    process = start(code + "print('busy', flush=True)\ntime.sleep(60)\n")
    pids = list(map(int, process.stdout.readline().split()))
    assert process.stdout.readline() == 'busy\n', process.stderr.read()
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    process.kill()
    wait_until_gone(pids)
    _, errors = process.communicate(timeout=10)
    assert 'Traceback' not in errors
    assert 'Error' not in errors


@on_linux
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGUSR2])
def test_signals_to_all_processes_are_left_to_the_program(start, number):
    code = f"""
import os, signal
asked = []
signal.signal({number:d}, lambda *_: asked.append(1))
{SLEEPER_PROGRAM}
os.killpg(0, {number:d})
simulators.begin({{0: envs.Start(0)}})  # all are there still
late = envs.Simulators(Sleeper, 1, 'late', 90)  # and so is what starts them
late.wait()
print(asked, len(active_children()))
"""
    output, errors = start(code).communicate(timeout=60)
    assert output.splitlines()[-1] == '[1] 3', errors
    assert 'Traceback' not in errors


class Counter(gymnasium.Env):
    """Its observation is the number of all steps ever taken, as with running statistics."""

    observation_space = action_space = Box(-1, 1, (1,), np.float32)
    steps = 0
    faults: list = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        return np.float32([self.steps]), {}

    def step(self, action):
        if self.faults:
            raise self.faults.pop()
        self.steps += 1
        return np.float32([self.steps]), 0.0, False, False, {'success': False}


class Repeating(Counter):
    """Each episode is the same, and none ever ends."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset()


def near(make):
    """Two simulators of an environment, without processes."""
    return NearSimulators([lambda: ActionChunks(make(), HORIZON)] * 2)


@pytest.mark.parametrize('make', [Counter, Repeating])
def test_an_environment_that_does_not_repeat_itself_is_noticed_and_nothing_is_played_again(
    make, caplog, monkeypatch
):
    simulators = near(make)
    assert simulators.check_repeats() is (make is Repeating)
    simulators.begin({0: Start(1), 1: Start(2)})
    chunk = np.zeros((2, 1), np.float32)
    simulators.play({0: chunk})
    monkeypatch.setattr(Counter, 'faults', [ZeroDivisionError])
    answers = simulators.play({1: chunk})
    assert (answers.get(0, '') is None) is (make is Counter)  # it had an open episode, too
    assert answers[1][0]['length'] == 2
    ended = [said for said in caplog.messages if 'it is truncated after 2 steps' in said]
    assert len(ended) == (make is Counter)


def test_an_episode_that_may_never_end_is_warned_of_once(caplog, monkeypatch):
    monkeypatch.setattr('envs.simulators.ENDLESS', 300)
    simulators = near(Repeating)
    simulators.begin({0: Start(1), 1: Start(2)})
    for _ in range(200):
        simulators.play({0: np.zeros((3, 1)), 1: np.zeros((3, 1))})
    (said,) = caplog.messages
    assert 'near: an episode is longer than 300 steps, ' in said
    assert 'gymnasium.wrappers.TimeLimit(env, max_episode_steps=1000)' in said


def test_a_long_path_of_temporary_files_does_not_matter(start, tmp_path):
    folder = tmp_path / ('long-' * 20)
    folder.mkdir()
    code = f'import tempfile; tempfile.tempdir = {str(folder)!r}\n'
    output, errors = start(code + SLEEPER_PROGRAM).communicate(timeout=60)
    assert len(output.split()) == 2, errors


@pytest.mark.parametrize(
    ('name', 'hostile'),
    [
        (CUBE, {'MUJOCO_GL': 'osmesa'}),
        (CUBE, {'MUJOCO_GL': 'nonsense'}),
        ('lift-scripted-low_dim', {'CUDA_VISIBLE_DEVICES': '3', 'MUJOCO_EGL_DEVICE_ID': '0'}),
    ],
)
def test_simulators_that_render_nothing_need_nothing_to_render_with(name, hostile):
    code = f"""
import envs
envs.make_env({name!r})
simulators = envs.make_simulators({name!r}, 1, 5)
print(len(simulators.begin({{0: envs.Start(0)}})))
"""
    run = run_python('-c', code, env=hostile)
    assert run.stdout == '1\n', run.stderr


def test_processes_play_what_one_process_plays():
    simulators = make_simulators(TOY, 2, HORIZON)
    begun = simulators.begin({0: Start(5), 1: Start(6, [np.full((2, 1), 0.1, np.float32)])})
    chunks = {1: np.full((2, 1), 0.25, np.float32)}
    assert simulators.playing == {0, 1}
    played = simulators.play(chunks)
    simulators.end()
    assert played.keys() == chunks.keys()
    alone = _make_chunks(TOY, HORIZON)
    np.testing.assert_array_equal(alone.begin(5), begun[0])
    np.testing.assert_array_equal(alone.begin(6, [np.full((2, 1), 0.1, np.float32)]), begun[1])
    (theirs, _, their_success), (ours, _, our_success) = played[1], alone.play(chunks[1])
    assert their_success == our_success
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key], value)


def error_of_a_simulator(_):
    with pytest.raises(UserError) as caught:
        make_simulators(TOY, 1, HORIZON)
    return str(caught.value)


def test_a_process_that_may_start_no_others_is_told_what_may():
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        (said,) = pool.map(error_of_a_simulator, [0])
    assert said.endswith('use ProcessPoolExecutor')
