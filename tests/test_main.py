"""The programs as a user runs them: a whole small run, and what bad input is answered with."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from envs.collect import collect

ROOT = pathlib.Path(__file__).parent.parent
ENV_NAME = 'cube-single-play-singletask-task1-v0'
SMALL = [
    '--agent.actor_hidden_dims=(16,)',
    '--agent.critic_hidden_dims=(16,)',
    '--agent.batch_size=8',
    '--buffer_size=3000',
    '--eval_episodes=2',
    '--eval_envs=2',
]


def run(*arguments, program='main.py', check=True, environment=None):
    result = subprocess.run(
        [sys.executable, program, *arguments],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=400,
    )
    if check:
        assert result.returncode == 0, result.stderr[-3000:]
    return result


def table(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def dataset_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp('data')
    collect('cube-single-play-v0', 2, directory, num_workers=1, num_val_episodes=0)
    return directory


@pytest.fixture(scope='module')
def finished(dataset_dir, tmp_path_factory):
    """A run of 25 updates and 33 environment steps, and what it printed."""
    save_dir = tmp_path_factory.mktemp('exp')
    result = run(
        f'--env_name={ENV_NAME}',
        f'--ogbench_dataset_dir={dataset_dir}',
        f'--save_dir={save_dir}',
        '--run_group=test',
        '--offline_steps=25',
        '--online_steps=33',
        '--start_training=10',
        '--eval_interval=10',
        '--log_interval=12',
        '--wandb_mode=offline',
        f'--compilation_cache_dir={save_dir / "cache"}',
        *SMALL,
        environment={'JAX_LOG_COMPILES': '1'},
    )
    (directory,) = (save_dir / 'test' / ENV_NAME).iterdir()
    return directory, result


def test_evaluation_happens_before_the_first_and_after_the_last_update_and_in_between(finished):
    rows = table(finished[0] / 'eval.csv')
    assert [(row['phase'], int(row['step'])) for row in rows] == [
        *(('offline', step) for step in (0, 10, 20, 25)),
        *(('online', step) for step in (0, 10, 20, 30, 33)),
    ]
    assert all(0 <= float(row['success']) <= 1 for row in rows)


def test_tables_have_a_row_per_interval_and_one_at_the_end(finished):
    offline, online = (table(finished[0] / f'{name}.csv') for name in ('offline', 'online'))
    assert [int(row['step']) for row in offline] == [12, 24, 25]
    assert [int(row['step']) for row in online] == [12, 24, 33]
    assert all(float(row['critic/loss']) > 0 for row in offline + online)
    assert all(float(row['actor/data_force_0.1']) > 0 for row in offline + online)


def test_nothing_is_compiled_twice_in_a_phase(finished):
    compiled = re.findall(r'Finished XLA compilation of jit\((\w+)\)', finished[1].stderr)
    assert compiled.count('train') == 2  # offline, online
    assert compiled.count('_act') == 2  # evaluation in both
    assert compiled.count('act') == compiled.count('_add') == 1
    assert any((finished[0].parents[2] / 'cache').iterdir())


def test_a_run_says_how_it_was_made(finished):
    written = json.loads((finished[0] / 'flags.json').read_text())
    assert written['flags']['online_steps'] == 33
    assert written['flags']['discount'] == 0.99
    assert written['agent']['agent_name'] == 'dfp'
    assert written['agent']['batch_size'] == 8
    assert written['data']['source'] == 'collected'
    assert written['versions']['jax']
    assert 'commit' in written['versions']


def test_a_run_leaves_a_picture_and_shows_progress(finished):
    directory, result = finished
    assert (directory / 'learning_curve.png').read_bytes().startswith(b'\x89PNG')
    assert 'offline: 100%' in result.stderr
    assert 'online: 100%' in result.stderr
    assert 'success=' in result.stderr
    assert (directory / 'wandb').is_dir()


def numbers(rows):
    return [{k: float(v) for k, v in row.items() if k not in ('phase', 'seconds')} for row in rows]


def test_seeds_trained_together_leave_what_each_would_alone(finished, dataset_dir, tmp_path):
    run(
        f'--env_name={ENV_NAME}',
        f'--ogbench_dataset_dir={dataset_dir}',
        f'--save_dir={tmp_path}',
        '--num_seeds=2',
        '--offline_steps=25',
        '--online_steps=33',
        '--start_training=10',
        '--eval_interval=10',
        '--log_interval=12',
        *SMALL,
        '--eval_envs=4',
    )
    directories = sorted(path.parent for path in tmp_path.rglob('flags.json'))
    assert [json.loads((d / 'flags.json').read_text())['flags']['seed'] for d in directories] == [
        0, 1,
    ]  # fmt: skip
    for name in ('offline', 'online', 'eval'):
        alone = numbers(table(finished[0] / f'{name}.csv'))
        first, second = (numbers(table(d / f'{name}.csv')) for d in directories)
        for row, expected in zip(first, alone, strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
        assert len(second) == len(first)
        assert name == 'eval' or second != first
    for directory in directories:
        assert (directory / 'learning_curve.png').exists()
        assert (directory / 'checkpoints' / 'online').is_dir()


def test_a_method_by_name_runs_in_both_phases_and_may_alternate(dataset_dir, tmp_path):
    run(
        '--method=BFN',
        '--nooverlap',
        f'--env_name={ENV_NAME}',
        f'--ogbench_dataset_dir={dataset_dir}',
        f'--save_dir={tmp_path}',
        '--offline_steps=3',
        '--online_steps=7',
        '--start_training=2',
        '--log_interval=3',
        '--compilation_cache_dir=',
        *SMALL,
    )
    (directory,) = (path.parent for path in tmp_path.rglob('flags.json'))
    assert directory.name.startswith('BFN-sd000-')
    written = json.loads((directory / 'flags.json').read_text())
    assert written['flags']['horizon_length'] == 1
    assert written['agent']['num_samples'] == 4
    assert [int(row['step']) for row in table(directory / 'online.csv')] == [3, 6, 7]


def test_a_checkpoint_evaluates_to_the_score_of_its_run(finished):
    last = table(finished[0] / 'eval.csv')[-1]
    result = run(
        f'--restore_path={finished[0] / "checkpoints" / "online"}',
        '--eval_episodes=2',
        '--eval_envs=2',
        program='evaluate.py',
    )
    scores = json.loads(result.stdout)
    assert scores == {name: float(last[name]) for name in ('success', 'return', 'length')}


def test_a_run_can_start_from_a_checkpoint_and_read_its_data_in_shards(finished, tmp_path):
    collect('cube-single-play-100m-v0', 2, tmp_path, 1, num_shards=2, num_val_episodes=0)
    result = run(
        f'--restore_path={finished[0] / "checkpoints" / "online"}',
        f'--env_name={ENV_NAME.replace("play", "play-100m")}',
        f'--ogbench_dataset_dir={tmp_path}',
        f'--save_dir={tmp_path}',
        '--offline_steps=5',
        '--dataset_replace_interval=2',
        '--online_steps=0',
        *SMALL,
        environment={'JAX_LOG_COMPILES': '1'},
    )
    assert len(re.findall(r'Finished XLA compilation of jit\(train\)', result.stderr)) == 1
    rows = table(next(tmp_path.glob('*/*/*/eval.csv')))
    assert [(row['phase'], row['step']) for row in rows] == [('offline', '0'), ('offline', '5')]
    last = table(finished[0] / 'eval.csv')[-1]
    for name in ('success', 'return', 'length'):
        assert rows[0][name] == last[name]
    written = json.loads(next(tmp_path.glob('*/*/*/flags.json')).read_text())
    assert len(written['data']['files']) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--env_name=cube-quintuple-play-singletask-v0'], 'quintuple-play-singletask-v0: unknown'),
        (['--agent=agents/sac.py'], 'agents/sac.py'),
        (['--horizon_length=0'], '--horizon_length=0: must be at least 1'),
        (['--offline_steps=-5'], '--offline_steps=-5: must be at least 0'),
        (['--eval_interval=0'], '--eval_interval=0: must be at least 1'),
        (['--agent.top_k=20'], '--agent.top_k=20: must be from 0'),
        (['--agent.temperatures=()'], '--agent.temperatures=(): needs at least one'),
        (['--agent.no_such_key=1'], 'no_such_key'),
        (['--success_timing=after'], 'success_timing'),
        (['--collect_episodes=5'], '--collect_episodes=5: has a meaning only with'),
        (['--save_dir=/dev/null/exp'], '--save_dir=/dev/null/exp: cannot write'),
        (['--restore_path=/no/such/run'], '--restore_path=/no/such/run: no checkpoint there'),
        (['--num_seeds=0'], '--num_seeds=0: must be at least 1'),
        (['--num_seeds=2', '--restore_path=x'], '--num_seeds=2 --restore_path=x: a checkpoint is'),
        (['--method=QCFQL'], '--method=QCFQL: unknown; there are BFN, QC-BFN'),
        (['--method=DFP', '--agent=agents/bfn.py'], 'a method names its agent; give one'),
        (['stray'], "'stray': not a flag"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_bad_input_is_named_before_any_training(arguments, message, tmp_path):
    result = run(
        f'--save_dir={tmp_path}', '--ogbench_dataset_dir=/nowhere', *arguments, check=False
    )
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert not list(tmp_path.rglob('flags.json'))


def test_data_that_cannot_be_had_is_an_error_with_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv('OGBENCH_DATASET_URL', 'http://127.0.0.1:9')
    result = run(
        f'--env_name={ENV_NAME}', f'--ogbench_dataset_dir={tmp_path}', f'--save_dir={tmp_path}',
        check=False,
    )  # fmt: skip
    assert result.returncode != 0
    last_line = result.stderr.strip().splitlines()[-1]
    assert 'python -m envs.collect --env_name=cube-single-play-v0 --num_episodes=1000' in last_line
