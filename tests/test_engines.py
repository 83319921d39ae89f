"""Schedulers skip, resume, retry, stop and report the runs of a plan."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy_suite
from result_files import long_table
from small_runs import AGENT

from experiments import engines, progress, slurm
from experiments.engines import Slot, run_here, slots
from experiments.plans import make_plan
from experiments.progress import look
from reports import runs
from training.logs import RunFolder
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
CUBE = 'cube-double-play-singletask-task2-v0'


def plan_of(tmp_path, *more, methods=('DFP', 'BFN')):
    """Two runs of a second or two in the toy suite."""
    sizes = [f'--agent.{name}={value}' for name, value in AGENT.items()]
    flags = (
        '--suite=toy_suite:suite', f'--toy_dataset_dir={tmp_path / "data"}',
        f'--save_dir={tmp_path / "exp"}', '--compilation_cache_dir=',
        '--offline_steps=20', '--online_steps=30', '--start_training=10', '--eval_interval=10',
        '--eval_episodes=2', '--eval_envs=2', '--log_interval=10', '--buffer_size=900',
        '--horizon_length=3', *sizes, *more,
    )  # fmt: skip
    return make_plan(methods=methods, tasks=[toy_suite.ENV_NAME], seeds=2, flags=flags)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    """Starts commands of plans in the project's root, with the toy suite importable."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}:{ROOT / "tests"}')


@pytest.mark.slow
def test_runs_are_made_once_and_resumed_and_their_results_gathered(tmp_path):
    """A signal stops the first call while both runs work; the second resumes; the third skips."""
    plan, lines = plan_of(tmp_path, '--online_steps=500', '--eval_interval=250'), []
    places = [Slot(), Slot()]
    assert {look(cell.config).status for cell in plan.runs} == {'planned'}

    def stop():
        while not all(look(cell.config).part > 0.02 for cell in plan.runs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    outcome = run_here(plan.runs, places, lines.append)
    assert [cell.row for cell in outcome.left] == ['DFP', 'BFN']
    assert progress.summary(plan.runs) == {'interrupted': 2}
    assert any(line.startswith('Stopping 2 runs; each saves its state') for line in lines)

    outcome = run_here(plan.runs, places, lines.append)
    assert {cell.row for cell in outcome.done} == {'DFP', 'BFN'}
    assert any(re.match('DFP, .*: continues at', line) for line in lines)
    lines.clear()
    outcome = run_here(plan.runs, places, lines.append)
    assert [cell.row for cell in outcome.done] == ['DFP', 'BFN']
    assert lines == []
    assert progress.summary(plan.runs) == {'done': 2}

    table = progress.results_of(plan.runs)
    assert table['versions'].str.match(r'jax [\d.]+; mujoco [\d.]+; python 3').all()
    assert {*table['data'].str.len()} == {16}  # a fingerprint
    path = tmp_path / 'results.csv'
    assert runs.gather(path, table) == runs.gather(path, table)
    ends = runs.read_results(path).groupby([*runs.GROUP[:3], 'seed', 'phase'])['step'].max()
    assert ends.to_dict() == {
        (cell.name, toy_suite.ENV_NAME, cell.config.identity, seed, phase): steps
        for cell in plan.runs
        for seed in (0, 1)
        for phase, steps in (('offline', 20), ('online', 500))
    }


@pytest.mark.slow
def test_a_run_that_fails_is_tried_again_and_then_named(tmp_path):
    plan, lines = plan_of(tmp_path, methods=('DFP',)), []
    (tmp_path / 'data').write_text('a file where the folder should be')
    outcome = run_here(plan.runs, [Slot()], lines.append, retries=1)
    assert [cell.row for cell in outcome.failed] == ['DFP']
    assert sum('it will restart' in line for line in lines) == 1
    assert re.search('failed 2 times: .*data', lines[-1])
    assert look(plan.runs[0].config).status == 'planned'  # a failed start leaves nothing


def test_a_run_that_another_process_has_is_left_to_it(tmp_path):
    plan, lines = plan_of(tmp_path, methods=('DFP',)), []
    folder = RunFolder(plan.runs[0].config.directory)
    try:
        assert look(plan.runs[0].config).status == 'running'
        outcome = run_here(plan.runs, [Slot()], lines.append)
    finally:
        folder.close()
    assert [cell.row for cell in outcome.elsewhere] == ['DFP']
    (line,) = lines
    assert line.startswith(f'DFP, {toy_suite.ENV_NAME}: already running')


def test_nothing_is_started_that_has_no_time(tmp_path):
    plan = plan_of(tmp_path)
    outcome = run_here(plan.runs, [Slot()], print, minutes=1)
    assert [cell.row for cell in outcome.left] == ['DFP', 'BFN']


@pytest.mark.slow
def test_runs_are_stopped_in_time_and_saved(tmp_path, monkeypatch):
    """When less than a minute is left; the clock says so as soon as the run is under way."""
    plan, lines = plan_of(tmp_path, '--online_steps=100000', methods=('DFP',)), []

    def clock():
        return 60 * 10 - engines.GRACE + 1 if look(plan.runs[0].config).part > 0 else 0

    monkeypatch.setattr(engines, 'time', SimpleNamespace(monotonic=clock, sleep=time.sleep))
    outcome = run_here(plan.runs, [Slot()], lines.append, minutes=10)
    assert [cell.row for cell in outcome.left] == ['DFP']
    assert lines[-1].startswith('Stopping 1 runs; each saves its state')
    assert look(plan.runs[0].config).status == 'interrupted'


def test_places_are_gpus_or_else_cores(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1,3')
    assert [dict(slot.environment)['CUDA_VISIBLE_DEVICES'] for slot in slots()] == ['1', '3']
    shared = slots(3)
    assert [dict(slot.environment)['CUDA_VISIBLE_DEVICES'] for slot in shared] == ['1', '3', '1']
    assert dict(shared[0].environment)['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    cores = sorted(os.sched_getaffinity(0))
    assert [slot.cores for slot in slots()] == [(core,) for core in cores]
    assert sorted(slots(1)[0].cores) == cores
    with pytest.raises(UserError, match='--jobs=0: must be at least 1'):
        slots(0)


@pytest.mark.slow
def test_a_run_is_pinned_to_its_cores(tmp_path):
    cell = dataclasses.replace(plan_of(tmp_path, methods=('DFP',)).runs[0], arguments=('--help',))
    core = min(os.sched_getaffinity(0))
    child = engines.Child(cell, Slot(cores=(core,)))
    assert os.sched_getaffinity(child.process.pid) == {core}
    child.process.wait()
    assert child.finished() == 0


@pytest.mark.slow
def test_the_program_plans_without_starting_anything(tmp_path):
    command = [sys.executable, 'reproduce.py', 'plan', '--table=7', f'--save_dir={tmp_path}']
    done = subprocess.run([*command, '--eval_episodes=7'], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('planned')]
    assert len(lines) == 5
    assert all('--eval_episodes=7' in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_what_was_gathered_is_left_out_of_a_plan(tmp_path):
    plan, path = make_plan(methods=['DFP', 'MVP'], tasks=[CUBE]), tmp_path / 'results.csv'
    about = {'method': 'DFP', 'task': CUBE, 'identity': plan.runs[0].config.identity}
    ends = [
        about | {'seed': seed, 'phase': 'online', 'step': 1_000_000, 'success': 1}
        for seed in plan.runs[0].config.seeds
    ]
    runs.gather(path, long_table(ends, tmp_path / 'ends.csv'))
    count, others = progress.without_gathered(plan, runs.read_results(path))
    assert (count, others.rows) == (1, ['MVP'])


RUN = """
import signal, sys, time
def stop(*_):
    time.sleep(0.3)
    sys.exit(75)
signal.signal(signal.SIGUSR1, stop)
print('started', sys.argv[1], flush=True)
time.sleep(60 if sys.argv[1] == 'long' else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'status'), [('long', 75), ('short', 0)])
def test_a_slurm_job_that_is_signalled_saves_and_is_queued_again(
    kind, status, tmp_path, monkeypatch
):
    commands = iter([['false'], [sys.executable, '-c', RUN, kind]])
    monkeypatch.setattr(slurm, 'command', lambda _: next(commands))
    script = slurm.job_array(make_plan(methods=['DFP', 'MVP'], tasks=[CUBE]).runs)
    (tmp_path / 'scontrol').write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/queued\n')
    (tmp_path / 'scontrol').chmod(0o755)
    (tmp_path / 'job.sh').write_text(script)
    environment = {'SLURM_ARRAY_TASK_ID': '1', 'SLURM_ARRAY_JOB_ID': '7'}
    environment |= os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    with subprocess.Popen(
        ['bash', tmp_path / 'job.sh'], env=environment, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout.readline() == f'started {kind}\n'
        if kind == 'long':
            job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=20) == status
    queued = tmp_path / 'queued'
    assert queued.exists() == (kind == 'long')
    assert kind == 'short' or queued.read_text() == 'requeue 7_1\n'
