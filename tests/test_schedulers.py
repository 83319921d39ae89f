"""Schedulers skip, resume, retry, stop and report the runs of a plan."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy_suite
from processes import PATHS, ROOT, run_python
from result_files import write_run
from small_runs import AGENT

from experiments import progress, schedulers
from experiments.plans import PlannedRun, make_plan
from experiments.progress import counts, progress_of
from experiments.run_flags import parse
from experiments.schedulers import Slot, ThisMachine, run_all, slots
from experiments.slurm import job_array
from reports import runs
from training import train
from training.logs import RunFolder
from utils.errors import UserError

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
    monkeypatch.setenv('PYTHONPATH', PATHS['PYTHONPATH'])


@pytest.mark.slow
def test_runs_are_made_once_and_resumed_and_their_results_gathered(tmp_path):
    """A signal stops the first call while both runs work; the second resumes; the third skips."""
    plan, lines = plan_of(tmp_path, '--online_steps=500', '--eval_interval=250'), []
    assert counts(plan.runs) == '2 planned'

    def stop():
        while not all(progress_of(run.config).part > 0.02 for run in plan.runs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    machine = ThisMachine([Slot(), Slot()])
    assert run_all(plan.runs, machine, lines.append) == []
    assert counts(plan.runs) == '2 interrupted'
    assert any(line.startswith('Stopping 2 runs; each saves its state') for line in lines)

    machine = ThisMachine([Slot(), Slot()])
    assert run_all(plan.runs, machine, lines.append) == []
    assert counts(plan.runs) == '2 done'
    assert any(re.match('DFP, .*: continues at', line) for line in lines)
    lines.clear()
    assert run_all(plan.runs, machine, lines.append) == []
    assert lines == []

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
    assert run_all(plan.runs, ThisMachine([Slot()]), lines.append, retries=1) == plan.runs
    assert sum('it will restart' in line for line in lines) == 1
    assert re.search('failed 2 times: .*data', lines[-1])
    assert progress_of(plan.runs[0].config).status == 'planned'  # a failed start leaves nothing


def test_a_run_that_another_process_has_is_left_to_it(tmp_path):
    plan, lines = plan_of(tmp_path, methods=('DFP',)), []
    folder = RunFolder(plan.runs[0].config.directory)
    try:
        assert progress_of(plan.runs[0].config).status == 'running'
        assert run_all(plan.runs, ThisMachine([Slot()]), lines.append) == []
    finally:
        folder.close()
    (line,) = lines
    assert line.startswith(f'DFP, {toy_suite.ENV_NAME}: already running')


def test_nothing_is_started_that_has_no_time(tmp_path):
    plan = plan_of(tmp_path)
    assert run_all(plan.runs, ThisMachine([Slot()]), print, minutes=1) == []
    assert counts(plan.runs) == '2 planned'


@pytest.mark.slow
def test_runs_are_stopped_in_time_and_saved(tmp_path, monkeypatch):
    """When less than a minute is left; the clock says so as soon as the run is under way."""
    plan, lines = plan_of(tmp_path, '--online_steps=100000', methods=('DFP',)), []

    def clock():
        return 60 * 10 - schedulers.GRACE + 1 if progress_of(plan.runs[0].config).part > 0 else 0

    monkeypatch.setattr(schedulers, 'time', SimpleNamespace(monotonic=clock, sleep=time.sleep))
    assert run_all(plan.runs, ThisMachine([Slot()]), lines.append, minutes=10) == []
    assert lines[-1].startswith('Stopping 1 runs; each saves its state')
    assert progress_of(plan.runs[0].config).status == 'interrupted'


def test_slots_are_gpus_or_else_cores(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1,3')
    assert [slot.environment for slot in slots()] == [
        {'CUDA_VISIBLE_DEVICES': '1'}, {'CUDA_VISIBLE_DEVICES': '3'},
    ]  # fmt: skip
    shared = slots(3)
    assert [slot.environment['CUDA_VISIBLE_DEVICES'] for slot in shared] == ['1', '3', '1']
    assert shared[0].environment['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    cores = sorted(os.sched_getaffinity(0))
    assert [slot.cores for slot in slots()] == [(core,) for core in cores]
    assert sorted(slots(1)[0].cores) == cores


@pytest.mark.slow
def test_a_run_is_pinned_to_its_cores(tmp_path, monkeypatch):
    (run,) = plan_of(tmp_path, methods=('DFP',)).runs
    core = min(os.sched_getaffinity(0))
    code = 'import os; print(os.sched_getaffinity(0))'
    monkeypatch.setattr(PlannedRun, 'command', [sys.executable, '-c', code])
    machine = ThisMachine([Slot(cores=(core,))])
    machine.start(run)
    while not (found := machine.ended()):
        time.sleep(0.01)
    assert found == [(run, 0)]
    assert schedulers.describe_end(run, 0) == f'{{{core}}}'


@pytest.mark.slow
def test_a_user_elsewhere_plans_in_a_folder_of_his_own_and_starts_nothing(tmp_path, monkeypatch):
    """The commands that it prints are those of that folder, as are relative paths."""
    monkeypatch.chdir(tmp_path)
    flags = '--table=7', '--save_dir=mine', '--eval_episodes=7'
    done = run_python(ROOT / 'reproduce.py', 'plan', *flags, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith('planned')]
    assert len(lines) == 5
    assert all('--eval_episodes=7' in line for line in lines)
    assert list(tmp_path.iterdir()) == []
    _, program, *arguments = shlex.split(lines[0])[2:]
    assert Path(program).resolve() == ROOT / 'main.py'
    config = parse(['main.py', *arguments])
    assert (config.run_group, config.eval_episodes) == ('paper', 7)
    monkeypatch.chdir(ROOT)
    assert make_plan('7').runs[0].command[1:3] == [
        'main.py', '--flagfile=experiments/paper.flags',
    ]  # fmt: skip


@pytest.mark.slow
def test_results_and_reports_lie_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(make_plan(methods=['DFP'], tasks=[CUBE]).runs[0].config.directory)
    assert not folder.is_absolute()
    flags = f'--methods=DFP --tasks={CUBE} --results=r.csv --output=report --save_dir=exp'.split()
    for command in ('gather', 'report'):
        run_python(ROOT / 'reproduce.py', command, *flags, cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {'exp', 'r.csv', 'report'}
    assert (tmp_path / 'report' / 'paper-methods.html').exists()


def test_a_complete_run_of_other_data_is_refused_as_main_refuses_it(tmp_path):
    plan, lines = plan_of(tmp_path, '--online_steps=0', methods=('DFP',)), []
    (run,) = plan.runs
    train(run.config, show_progress=False)
    assert progress_of(run.config).status == 'done'
    toy_suite.write_dataset(tmp_path / 'data', 10)
    assert run_all(plan.runs, ThisMachine([Slot()]), lines.append) == [run]
    with pytest.raises(UserError, match='was made with other data of the same name') as error:
        train(run.config, show_progress=False)
    assert lines == [f'{run.label}: {error.value}']
    assert counts(plan.runs) == '1 changed'


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
    monkeypatch.setattr(PlannedRun, 'command', property(lambda _: next(commands)))
    script = job_array(make_plan(methods=['DFP', 'MVP'], tasks=[CUBE]).runs)
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
