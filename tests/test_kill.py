"""Runs that are killed or asked to stop still end with the same results.

`python -m pytest tests/test_kill.py --kills=32` strikes 32 times.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pixel_suite
import pytest
import toy_suite
from processes import PATHS, ROOT
from small_runs import assert_equal_outcomes

from training.logs import read_status

pytestmark = pytest.mark.slow
FLAGS = (
    '--suite=toy_suite:suite', f'--env_name={toy_suite.ENV_NAME}', '--horizon_length=3',
    '--agent.actor_hidden_dims=(8,)', '--agent.critic_hidden_dims=(8,)', '--agent.batch_size=4',
    '--buffer_size=4000', '--offline_steps=400', '--online_steps=300', '--start_training=50',
    '--eval_interval=150', '--eval_episodes=20', '--eval_envs=1', '--log_interval=50',
    '--save_interval=50', '--worker_timeout=5',
)  # fmt: skip
PIXELS = (
    '--suite=pixel_suite:suite', f'--env_name={pixel_suite.ENV_NAME}', '--frame_stack=2',
    '--p_aug=0.5', '--agent.encoder=impala_small', '--horizon_length=1', '--offline_steps=40',
    '--online_steps=60', '--start_training=4', '--eval_interval=30', '--log_interval=10',
    '--save_interval=10',
)  # fmt: skip


def start(directory, more=()):
    arguments = [
        f'--save_dir={directory}/exp', f'--compilation_cache_dir={directory.parent}/programs',
        *(more or [f'--toy_dataset_dir={directory}/data']),
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, 'main.py', *FLAGS, *arguments], cwd=ROOT,
        env=os.environ | PATHS | {'KILLED': str(directory)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def folder_of(directory):
    return next(directory.glob('exp/*/*/*/'), directory / 'none')


def processes_of(directory):
    """The ids of the processes that a run started and that are still there, and their parents'."""
    found = {}
    for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
        with contextlib.suppress(OSError):
            if f'KILLED={directory}\0'.encode() in path.read_bytes():
                stat = path.with_name('stat').read_text().rpartition(')')[2].split()
                found[int(path.parent.name)] = int(stat[1])
    return found


def wait_for_none(directory):
    deadline = time.monotonic() + 10
    while processes_of(directory):
        assert time.monotonic() < deadline
        time.sleep(0.1)


needs_proc = pytest.mark.skipif(
    not pathlib.Path('/proc/self/environ').exists(), reason='looks into /proc'
)


@needs_proc
def test_a_run_that_is_killed_and_stopped_ends_as_if_it_had_not_been(tmp_path):
    """It also leaves no process, and says how to continue."""
    with start(tmp_path / 'whole') as process:
        assert 'online: 100%' in process.stderr.read()
    for phase, step, number, status in (
        ('offline', 100, signal.SIGKILL, -signal.SIGKILL),
        ('online', 100, signal.SIGKILL, -signal.SIGKILL),
        ('online', 200, signal.SIGTERM, 75),
    ):
        process = start(tmp_path / 'struck')
        while process.poll() is None:
            found = read_status(folder_of(tmp_path / 'struck'))
            if found.get('phase') == phase and found['step'] >= step:
                process.send_signal(number)
                break
            time.sleep(0.005)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == status
        assert ('Continue with: ' in said) == (number == signal.SIGTERM)
        wait_for_none(tmp_path / 'struck')
    with start(tmp_path / 'struck') as process:
        assert 'online: 100%' in process.stderr.read()
    assert_equal_outcomes(folder_of(tmp_path / 'whole'), folder_of(tmp_path / 'struck'))


def send(number, processes):
    for each in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


def strike(process, directory, rng):
    """Strikes a run, or one of its simulators, with a random signal; returns which."""
    running = processes_of(directory)
    simulators = [each for each, parent in running.items() if running.get(parent) == process.pid]
    if simulators and rng.random() < 0.3:
        number = (signal.SIGKILL, signal.SIGSTOP)[rng.integers(2)]
        send(number, [rng.choice(simulators)])
        return f'simulator {number.name}'
    number = (signal.SIGKILL, signal.SIGTERM)[rng.integers(2)]
    process.send_signal(number)
    process.wait()
    send(signal.SIGCONT, processes_of(directory))  # a stopped simulator cannot end
    return number.name


@needs_proc
@pytest.mark.parametrize('has_images', [False, True])
def test_a_run_struck_at_random_moments_ends_with_the_same_bits(tmp_path, has_images, pytestconfig):
    """It is killed or asked to stop, or one of its simulators is killed or stopped."""
    more = ()
    if has_images:
        pixel_suite.write_data(tmp_path / 'column.npz')
        more = (*PIXELS, f'--pixel_data={tmp_path}/column.npz')
    begun = time.monotonic()
    with start(tmp_path / 'whole', more) as process:
        assert 'online: 100%' in process.stderr.read()
    lasts = time.monotonic() - begun
    rng, strikes, struck = np.random.default_rng(0), [], tmp_path / 'struck'
    kills, is_done = pytestconfig.getoption('kills'), False
    while len(strikes) < kills or not is_done:
        process = start(struck, more)
        try:
            wait = rng.uniform(0, lasts) if len(strikes) < kills else None
            said = process.communicate(timeout=wait)[1]
        except subprocess.TimeoutExpired:
            strikes.append(strike(process, struck, rng))
            said = process.communicate()[1]
        wait_for_none(struck)
        is_done = process.returncode == 0
        if is_done:
            without = 'seconds', 'simulator_failures'
            assert_equal_outcomes(folder_of(tmp_path / 'whole'), folder_of(struck), without)
            struck = tmp_path / f'struck{len(strikes)}'
        else:  # the same command continues it
            assert strikes[-1] in ('SIGKILL', 'SIGTERM'), said
    print(strikes)
