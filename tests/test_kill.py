"""Runs that are killed or asked to stop still end with the same results."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import toy_suite
from small_runs import assert_equal_outcomes

from training.logs import read_status

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
FLAGS = (
    '--suite=toy_suite:suite', f'--env_name={toy_suite.ENV_NAME}', '--compilation_cache_dir=',
    '--agent.actor_hidden_dims=(8,)', '--agent.critic_hidden_dims=(8,)', '--agent.batch_size=4',
    '--horizon_length=3', '--buffer_size=4000', '--offline_steps=400', '--online_steps=300',
    '--start_training=50', '--eval_interval=150', '--eval_episodes=20', '--eval_envs=1',
    '--log_interval=50', '--save_interval=50',
)  # fmt: skip


def start(directory):
    arguments = [f'--toy_dataset_dir={directory}/data', f'--save_dir={directory}/exp']
    environment = os.environ | {'PYTHONPATH': str(ROOT / 'tests'), 'KILLED': str(directory)}
    return subprocess.Popen(
        [sys.executable, 'main.py', *FLAGS, *arguments], cwd=ROOT, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def folder_of(directory):
    return next(directory.glob('exp/*/*/*/'), directory / 'none')


def left_behind(directory):
    """The processes that a run started and that are still there."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
        with contextlib.suppress(OSError):
            found += [path] if f'KILLED={directory}\0'.encode() in path.read_bytes() else []
    return found


@pytest.mark.skipif(not pathlib.Path('/proc/self/environ').exists(), reason='looks into /proc')
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
        deadline = time.monotonic() + 10
        while left_behind(tmp_path / 'struck'):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with start(tmp_path / 'struck') as process:
        assert 'online: 100%' in process.stderr.read()
    assert_equal_outcomes(folder_of(tmp_path / 'whole'), folder_of(tmp_path / 'struck'))
