"""Runs that are killed, or asked to stop, end as if they had not been. See tests/reliability.py."""

import pathlib
import random
import signal

import pytest
import toy_suite
from watched_runs import Strike, endure, make_reference

FLAGS = (
    '--suite=toy_suite:suite',
    f'--env_name={toy_suite.ENV_NAME}',
    '--toy_dataset_dir={directory}/data',
    '--agent.actor_hidden_dims=(8,)',
    '--agent.critic_hidden_dims=(8,)',
    '--agent.batch_size=4',
    '--horizon_length=3',
    '--buffer_size=4000',
    '--offline_steps=400',
    '--online_steps=300',
    '--start_training=50',
    '--eval_interval=150',
    '--eval_episodes=40',
    '--eval_envs=1',
    '--log_interval=150',
    '--save_interval=100',
)


@pytest.mark.skipif(not pathlib.Path('/proc/self/environ').exists(), reason='looks into /proc')
def test_a_run_that_is_killed_and_stopped_ends_as_if_it_had_not_been(tmp_path):
    """It also leaves no process, shared memory or file, and says how to continue."""
    flags = [*FLAGS, '--compilation_cache_dir=']  # the one that all tests share
    plan = [
        Strike('saving', 'offline', longest_delay=0.02),
        Strike('evaluation', 'online', longest_delay=0.05),
        Strike('online', signals=(signal.SIGTERM,), longest_delay=0.05),
    ]
    reference = make_reference(flags, tmp_path / 'reference')
    assert reference.problems == []
    assert endure(flags, tmp_path / 'struck', plan, reference, random.Random(0)) == []
    assert all(strike.resumed and strike.equal for strike in plan)
