"""Schedulers for the runs of a plan: processes on this machine, or tasks of a Ray cluster."""

import contextlib
import ctypes
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from envs.processes import SIGNALS, num_cores
from experiments.plans import PlannedRun
from experiments.progress import progress_of
from training.logs import is_at_work, newest_copy
from utils.errors import UserError

INTERRUPTED = 75  # exit status of main.py: its state is saved
GRACE = 60.0  # seconds before the end in which runs save their state
LEAST = 120.0  # seconds; with less time left, no run starts
PR_SET_PDEATHSIG = 1  # of Linux


def run_all(
    runs: Sequence[PlannedRun],
    scheduler: 'ThisMachine | RayCluster',
    log: Callable[[str], None],
    minutes: float | None = None,
    retries: int = 2,
    pause: float = 0.5,
) -> list[PlannedRun]:
    """Runs what is not complete; returns the runs that failed.

    A run that fails is restarted from its last checkpoint, up to `retries` times. After `minutes`,
    or on one of `SIGNALS`, all runs save their state and exit; the same call continues them.

    Args:
        runs: in the order to start them.
        scheduler: where they run.
        log: called with progress messages.
        minutes: time limit; None: no limit.
        retries: how often to restart a run that fails.
        pause: seconds between looks at the runs.
    """
    failed, waiting, tries = [], [], dict.fromkeys(runs, 0)
    for run in runs:
        found = progress_of(run.config)
        if found.status == 'running':
            log(f'{run.label}: already running in another process; skipped')
        elif found.status == 'changed':
            log(f'{run.label}: {found.error}')
            failed.append(run)
        elif found.status != 'done':
            waiting.append(run)
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    with stopping() as received:
        while waiting or scheduler.running():
            left = end - time.monotonic()
            if received or left < GRACE:
                if running := scheduler.running():
                    how = 'each saves its state (Ctrl-C again kills them)'
                    log(f'Stopping {len(running)} runs; {how}')
                    scheduler.stop(received)
                break
            while waiting and left > LEAST and scheduler.has_room():
                run = waiting.pop(0)
                done = progress_of(run.config).part
                scheduler.start(run)
                how = f'continues at {100 * done:.0f}%' if done else 'starts'
                log(f'{run.label}: {how} ({log_path(run)})')
            if not scheduler.running():
                break  # too little time for another run
            for run, status in scheduler.ended():
                found = progress_of(run.config)
                if found.status == 'done':
                    log(f'{run.label}: done')
                    continue
                tries[run] += status != INTERRUPTED  # a run that someone stopped did not fail
                how = f'{found.error or describe_end(run, status)} ({log_path(run)})'
                if found.status == 'changed' or tries[run] > retries:
                    log(f'{run.label}: failed {tries[run]} times: {how}')
                    failed.append(run)
                else:
                    log(f'{run.label}: ended early: {how}; it will restart')
                    waiting.append(run)
            time.sleep(pause)
    return failed


@contextlib.contextmanager
def stopping() -> Iterator[list[int]]:
    """Collects signals that would stop this program, in a list."""
    received: list[int] = []
    before = [signal.signal(number, lambda n, _: received.append(n)) for number in SIGNALS]
    try:
        yield received
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def log_path(run: PlannedRun) -> pathlib.Path:
    """Returns the file for a run's output."""
    directory = run.config.directory
    return directory.parents[1] / 'logs' / f'{run.task}-{directory.name}.log'


def describe_end(run: PlannedRun, status: int | None) -> str:
    """Returns the last line that a run printed, its error if it failed, or the signal."""
    if status is not None and status < 0:
        return f'killed by {signal.Signals(-status).name}'
    if not (path := log_path(run)).exists():
        return 'it did not start'
    return path.read_text('utf-8', errors='replace').strip().rpartition('\n')[2].rpartition('\r')[2]


def open_log(path: str | pathlib.Path) -> IO:
    """Opens a run's log to append to it; creates its folder if missing."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    return open(path, 'a', encoding='utf-8')


# ---- this machine -------------------------------------------------------------------------------


class Slot(NamedTuple):
    """Resources for one run at a time: a GPU, or some cores."""

    environment: Mapping[str, str] = {}
    cores: tuple[int, ...] = ()  # the run is pinned to them; empty: all


def slots(jobs: int | None = None) -> list[Slot]:
    """Returns the slots of this machine.

    There is one per GPU. Without a GPU there is one per core, and its run is pinned to the core:
    with small networks, two pinned runs are 1.4 (DFP) to 1.9 (FQL) times as fast as two runs that
    share both cores.

    Args:
        jobs: number of slots, which share the GPUs or cores; None: as above.
    """
    if gpus := available_gpus():
        names = [gpus[i % len(gpus)] for i in range(jobs or len(gpus))]
        several = len(names) > len(gpus)  # then a run must not preallocate all of a GPU's memory
        more = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'} if several else {}
        return [Slot({'CUDA_VISIBLE_DEVICES': name} | more) for name in names]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    count = jobs or num_cores()
    return [
        Slot(cores=tuple(cores[i % len(cores) :: count]) if cores else ()) for i in range(count)
    ]


def available_gpus() -> list[str]:
    """Returns CUDA's numbers of the GPUs that this process may use, without starting JAX."""
    if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return [name for name in visible.split(',') if name not in ('', '-1')]
    return sorted(path.name[6:] for path in pathlib.Path('/dev').glob('nvidia[0-9]*'))


class ThisMachine:
    """A scheduler with a process per run, one run per slot."""

    def __init__(self, places: Sequence[Slot]):
        self._free = list(places)
        self._processes: dict[subprocess.Popen, tuple[PlannedRun, Slot]] = {}

    def has_room(self) -> bool:
        return bool(self._free)

    def running(self) -> list[PlannedRun]:
        return [run for run, _ in self._processes.values()]

    def start(self, run: PlannedRun) -> None:
        slot = self._free.pop(0)
        with open_log(log_path(run)) as log:
            print(f'$ {shlex.join(run.command)}', file=log, flush=True)
            process = subprocess.Popen(
                run.command,
                env={**os.environ, **slot.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # only this program gets Ctrl-C; it stops its runs
                preexec_fn=(lambda: os.sched_setaffinity(0, slot.cores)) if slot.cores else None,
            )
        self._processes[process] = run, slot

    def ended(self) -> list[tuple[PlannedRun, int | None]]:
        found = []
        for process in [each for each in self._processes if each.poll() is not None]:
            run, slot = self._processes.pop(process)
            self._free.append(slot)
            found.append((run, process.returncode))
        return found

    def stop(self, received: Sequence[int]) -> None:
        for process in self._processes:
            process.terminate()
        before = len(received)
        while any(process.poll() is None for process in self._processes):
            if len(received) > before:
                for process in self._processes:
                    process.kill()
            time.sleep(0.1)


# ---- Ray ----------------------------------------------------------------------------------------


class RayCluster:
    """A scheduler on a Ray cluster whose nodes share the directory.

    A task whose node is lost restarts on another node, from the run's last checkpoint.
    """

    def __init__(self, address: str, num_cpus: float = 1, num_gpus: float = 0):
        """Connects to the cluster.

        Args:
            address: of the cluster, such as 'auto'.
            num_cpus: cores of a run.
            num_gpus: GPUs, or a fraction of one, of a run.

        Raises:
            UserError: Ray is not installed, or no cluster answers.
        """
        try:
            import ray
        except ImportError:
            raise UserError(
                f'--ray_address={address}: Ray is not installed; '
                f'{os.path.relpath(sys.executable)} -m pip install -r '
                'experiments/requirements-ray.txt'
            ) from None
        try:
            ray.init(address=address, log_to_driver=False, logging_level='ERROR')
        except ConnectionError as error:
            raise UserError(
                f'--ray_address={address}: no cluster there ({error}); start one: ray start --head'
            ) from None
        self._ray, self._tasks = ray, {}
        self._execute: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=-1)(
            execute
        )

    def has_room(self) -> bool:
        return True  # Ray queues tasks

    def running(self) -> list[PlannedRun]:
        return list(self._tasks.values())

    def start(self, run: PlannedRun) -> None:
        folder = newest_copy(run.config.directory)
        task = self._execute.remote(run.command, os.getcwd(), str(log_path(run)), str(folder))
        self._tasks[task] = run

    def ended(self) -> list[tuple[PlannedRun, int | None]]:
        ready, _ = self._ray.wait(list(self._tasks), timeout=1.0)
        return [(self._tasks.pop(task), self._status(task)) for task in ready]

    def _status(self, task: Any) -> int | None:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError:
            return None

    def stop(self, received: Sequence[int]) -> None:
        for task in self._tasks:
            self._ray.cancel(task)
        self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=GRACE)


def execute(command: Sequence[str], directory: str, log: str, folder: str) -> int:
    """Executes a run's command on a node and returns its exit status.

    Waits while another process has the run, which may still be saving on a node that Ray lost.
    """
    deadline = time.monotonic() + 10 * GRACE
    while is_at_work(pathlib.Path(folder)) and time.monotonic() < deadline:
        time.sleep(1)
    with open_log(log) as file:
        process = subprocess.Popen(
            [sys.executable, *command[1:]],
            cwd=directory,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=_stop_with_parent if sys.platform == 'linux' else None,
        )
        try:
            while process.poll() is None:  # not wait(), which Ray cannot interrupt
                time.sleep(0.2)
            return process.returncode
        except BaseException:  # Ray cancels the task
            process.terminate()
            process.wait()
            raise


def _stop_with_parent() -> None:
    """Asks for SIGTERM when the parent process dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
