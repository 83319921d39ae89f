"""Environments in processes: what they import, what they obey, how they end."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import toy_suite

from envs import find_task, make_vector_env, vector

ROOT = Path(__file__).parents[1]
CUBE = 'cube-single-play-singletask-task1-v0'
TOY = find_task(toy_suite.ENV_NAME, toy_suite.suite)
HORIZON = 5

on_linux = pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='reads /proc')

# A user's programs, without a main guard. They print the pids of their simulators.
TOY_PROGRAM = """
import time
from functools import partial
import envs

task = envs.find_task('toy-push-v0', 'toy_suite:suite')
env = envs.make_vector_env(task, 2, 5, 'evaluate')
print(*[process.pid for process in env.processes], flush=True)
env.set_attr('probe', [partial(time.sleep, 60)] * 2)
"""
CUBE_PROGRAM = """
from functools import partial
import jax
import matplotlib
import numpy as np
import envs

print('main program', flush=True)
env = envs.make_vector_env('cube-single-play-singletask-task1-v0', 2, 5, 'play')
wanted = "sorted({'jax', 'matplotlib', 'mujoco'} & set(__import__('sys').modules))"
env.set_attr('probe', [partial(eval, wanted)] * 2)
print(*env.call('probe'), sep=';')
env.set_attr('start', [(seed, 0, np.zeros((0, 5))) for seed in (0, 1)])
env.reset()
env.step((jax.numpy.zeros((2, 5, 5)), jax.numpy.array([5, 2])))
print(*env.call('probe'), sep=';')
print(*[process.pid for process in env.processes], flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program from a file somewhere else, in a process group of its own."""
    started = []

    def start(code):
        path = tmp_path / 'program.py'
        path.write_text(code)
        environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
        process = subprocess.Popen(
            [sys.executable, path],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
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


def toy_env(mode='evaluate', num_envs=2):
    return make_vector_env(TOY, num_envs, HORIZON, mode)


def in_a_long_step(env):
    """Asks the processes for what takes a minute."""
    env.set_attr('probe', [partial(time.sleep, 60)] * env.num_envs)
    env.call_async('probe')


def test_importing_envs_is_light():
    heavy = ['ogbench', 'mujoco', 'jax', 'matplotlib', 'chex', 'envs.ogbench.tasks']
    code = (
        f'import sys, envs; envs.find_task("{CUBE}"); import envs.collect; '
        f'print([name for name in {heavy} if name in sys.modules])'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout == '[]\n'


def test_simulators_import_nothing_of_the_main_program(start):
    process = start(CUBE_PROGRAM)
    output, errors = process.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[:3] == ['main program', *["['mujoco'];['mujoco']"] * 2]
    assert len(lines) == 4
    assert process.returncode == 0
    assert 'Traceback' not in errors
    wait_until_gone(list(map(int, lines[3].split())))


@on_linux
def test_simulators_end_without_a_word_when_the_program_is_killed(start):
    # One of them is in the middle of something, the other one waits for something to do.
    code = TOY_PROGRAM + "env._simulators[0].ask('probe')\n"
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
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_all_processes_are_left_to_the_program(start, number):
    code = f"""
import os, signal
asked = []
signal.signal({number:d}, lambda *_: asked.append(1))
{TOY_PROGRAM}
os.killpg(0, {number:d})
env.reset()  # all are there still
late = envs.make_vector_env(task, 1, 5, 'evaluate')  # and so is what starts them
late.reset()
print(asked, [process.is_alive() for process in env.processes + late.processes])
"""
    output, errors = start(code).communicate(timeout=60)
    assert output.splitlines()[-1] == '[1] [True, True, True]', errors
    assert 'Traceback' not in errors


def test_end_does_not_wait_for_a_step_and_may_be_called_again():
    env = toy_env()
    processes = env.processes
    in_a_long_step(env)
    begin = time.monotonic()
    vector.end(env)
    vector.end(env)
    assert time.monotonic() - begin < 5
    assert not any(process.is_alive() for process in processes)


@on_linux
def test_a_program_that_fails_ends_simulators_at_work(start):
    process = start(TOY_PROGRAM + "env.call_async('probe')\nraise SystemExit('the last word')\n")
    output, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == 'the last word'
    wait_until_gone(list(map(int, output.splitlines()[-1].split())))


def test_unknown_mode_and_options_are_errors_before_anything_is_started():
    with pytest.raises(ValueError, match='mode=watch: must be one of evaluate, play'):
        toy_env('watch')
    with pytest.raises(ValueError, match='--sparse=True: not an option of suite toy; its options'):
        make_vector_env(TOY, 1, HORIZON, 'play', sparse=True)


def test_processes_play_what_one_process_plays():
    env = toy_env('play')
    env.set_attr('start', [(seed, 0, np.zeros((0, 1))) for seed in (0, 1)])
    observations, _ = env.reset()
    chunks = np.full((2, HORIZON, 1), 0.25, np.float32)
    _, _, _, _, info = env.step((chunks, np.array([5, 2])))
    vector.end(env)
    for i, length in enumerate([5, 2]):
        alone = vector._make_worker_env(TOY, HORIZON, 'play')
        alone.start = (i, 0, np.zeros((0, 1)))
        np.testing.assert_array_equal(alone.reset()[0], observations[i])
        theirs = alone.step((chunks[i], length))[4]['transitions']
        for key, value in theirs.items():
            np.testing.assert_array_equal(info['transitions'][key][i], value)
