"""An exported policy acts in LeRobot as the agent does, in an environment that has LeRobot.

LEROBOT_PYTHON=<the Python where lerobot_policy_dfp is installed> pytest tests/test_lerobot.py
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from small_runs import make_config

from training import load_policy, train
from training.export import export_policy, programs

PYTHON = os.environ.get('LEROBOT_PYTHON')
CLIENT = pathlib.Path(__file__).with_name('lerobot_client.py')
NUM_CASES = 3

pytestmark = pytest.mark.skipif(not PYTHON, reason='set LEROBOT_PYTHON; see lerobot_policy_dfp/')


def lerobot(*arguments):
    inherited = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return subprocess.run(
        [PYTHON, *arguments], capture_output=True, text=True, timeout=300, cwd='/',
        env=inherited | {'HF_HUB_OFFLINE': '1'},
    )  # fmt: skip


def test_policy_acts_as_the_agent(tmp_path):
    pytest.importorskip('jax2onnx', reason='needs requirements-export.txt')
    config = make_config(
        tmp_path / 'run', agent={'eval_num_samples': 5}, online_steps=0, eval_interval=0
    )
    run = train(config, show_progress=False).directory
    about = export_policy(run, tmp_path / 'policy', formats=['onnx'])
    about['action']['low'][0] = -3.0  # a robot whose first action is not from −1 to 1
    (tmp_path / 'policy' / 'policy.json').write_text(json.dumps(about))

    agent, rng = load_policy(run), np.random.default_rng(0)
    observations = rng.standard_normal((NUM_CASES, about['observation']['shape'][0]), np.float32)
    shape = NUM_CASES, 5, about['chunk_length'], about['action']['size']
    noises = rng.standard_normal(shape, np.float32)
    chunks, _ = programs(agent)['best_of_n'].function(observations, noises)
    np.savez(
        tmp_path / 'cases.npz', observations=observations, noises=noises, chunks=chunks,
        low=about['action']['low'], high=about['action']['high'],
    )  # fmt: skip

    converted = lerobot(
        '-m', 'lerobot_policy_dfp', tmp_path / 'policy', tmp_path / 'policy_lerobot'
    )
    assert converted.returncode == 0, converted.stderr
    played = lerobot(CLIENT, tmp_path)
    assert played.returncode == 0, played.stderr
    assert played.stdout.splitlines()[-1] == 'as the agent'


def test_folder_without_a_program_is_one_line(tmp_path):
    (tmp_path / 'policy.json').write_text('{}')
    refused = lerobot('-m', 'lerobot_policy_dfp', tmp_path, tmp_path / 'out')
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith('not found; export with --formats=onnx')
