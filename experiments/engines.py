"""Schedulers for the runs of a plan: processes on this machine, or tasks of a Ray cluster."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from envs.processes import SIGNALS
from experiments.plans import Cell
from experiments.progress import Progress, available_gpus, look
from training.devices import num_cores
from training.logs import is_at_work, newest_copy
from utils.errors import UserError

INTERRUPTED = 75  # exit status of main.py: its state is saved
GRACE = 60.0  # seconds before the end in which runs save their state
LEAST = 120.0  # seconds; with less time left, no run starts
Log = Callable[[str], None]


def command(cell: Cell) -> list[str]:
    """Returns the command of a run, to start in the project's root."""
    return [os.path.relpath(sys.executable), 'main.py', *cell.arguments]


def log_path(cell: Cell) -> pathlib.Path:
    """Returns the file for a run's output."""
    directory = cell.config.directory
    return directory.parents[1] / 'logs' / f'{cell.task}-{directory.name}.log'


def describe(cell: Cell) -> str:
    return f'{cell.name}, {cell.task}'


@dataclasses.dataclass(frozen=True)
class Slot:
    """Resources for one run at a time: a GPU, or some cores."""

    environment: tuple[tuple[str, str], ...] = ()
    cores: tuple[int, ...] = ()  # the run is pinned to them; empty: all


def slots(jobs: int | None = None) -> list[Slot]:
    """Returns the slots of this machine.

    There is one per GPU. Without a GPU there is one per core, and its run is pinned to the core:
    with small networks, two pinned runs are 1.4 (DFP) to 1.9 (FQL) times as fast as two runs that
    share both cores.

    Args:
        jobs: number of slots, which share the GPUs or cores; None: as above.

    Raises:
        UserError: `jobs` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f'--jobs={jobs}: must be at least 1')
    if gpus := available_gpus():
        names = [gpus[i % len(gpus)] for i in range(jobs or len(gpus))]
        several = len(names) > len(gpus)  # then a run must not preallocate all of a GPU's memory
        more = (('XLA_PYTHON_CLIENT_PREALLOCATE', 'false'),) if several else ()
        return [Slot((('CUDA_VISIBLE_DEVICES', name), *more)) for name in names]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    count = jobs or num_cores()
    parts = [tuple(cores[i % len(cores) :: count]) if cores else () for i in range(count)]
    return [Slot(cores=part) for part in parts]


class Child:
    """A run in its own process."""

    def __init__(self, cell: Cell, slot: Slot):
        self.cell, self.slot = cell, slot
        path = log_path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO = path.open('a', encoding='utf-8')
        self._log.write(f'$ {shlex.join(command(cell))}\n')
        self._log.flush()
        pin = (lambda: os.sched_setaffinity(0, slot.cores)) if slot.cores else None
        self.process = subprocess.Popen(
            command(cell),
            env=os.environ | dict(slot.environment),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # only this program gets Ctrl-C; it stops its runs
            preexec_fn=pin,
        )

    def finished(self) -> int | None:
        """Returns the exit status, or None while the process is alive."""
        status = self.process.poll()
        if status is not None:
            self._log.close()
        return status

    def stop(self) -> None:
        """Asks the run to save its state and exit."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)


def last_line(cell: Cell) -> str:
    """Returns the last line that a run printed, which is its error if it failed."""
    try:
        lines = log_path(cell).read_text('utf-8', errors='replace').strip().splitlines()
    except OSError:
        return ''
    return lines[-1].rpartition('\r')[2].strip() if lines else ''


@dataclasses.dataclass
class Outcome:
    """The runs of a plan by outcome."""

    done: list[Cell] = dataclasses.field(default_factory=list)
    failed: list[Cell] = dataclasses.field(default_factory=list)
    elsewhere: list[Cell] = dataclasses.field(default_factory=list)  # running in another process
    left: list[Cell] = dataclasses.field(default_factory=list)  # no time left


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


def run_here(
    cells: Sequence[Cell],
    places: Sequence[Slot],
    log: Log,
    minutes: float | None = None,
    retries: int = 2,
    pause: float = 0.5,
) -> Outcome:
    """Runs the cells that are not complete, one per slot.

    A run that fails is restarted from its last checkpoint, up to `retries` times. After `minutes`,
    or on one of `SIGNALS`, all runs save their state and exit; the same call continues them.

    Args:
        cells: the runs, in the order to start them.
        places: see `slots`.
        log: called with progress messages.
        minutes: time limit; None: no limit.
        retries: how often to restart a run that fails.
        pause: seconds between polls of the processes.
    """
    outcome, waiting = Outcome(), []
    for cell in cells:
        found = look(cell.config)
        if found.status == 'done':
            outcome.done.append(cell)
        elif found.status == 'running':
            log(f'{describe(cell)}: already running in another process; skipped')
            outcome.elsewhere.append(cell)
        elif found.status == 'changed':
            log(f'{describe(cell)}: {found.error}')
            outcome.failed.append(cell)
        else:
            waiting.append(cell)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    tries: dict[Cell, int] = {}
    free, children = list(places), []
    with stopping() as received:
        while waiting or children:
            left = float('inf') if end is None else end - time.monotonic()
            if received or left < GRACE:
                _stop(children, received, log)
                outcome.left += [child.cell for child in children] + waiting
                for child in children:
                    if look(child.cell.config).status == 'done':
                        outcome.left.remove(child.cell)
                        outcome.done.append(child.cell)
                return outcome
            while waiting and free and left > LEAST:
                cell = waiting.pop(0)
                children.append(Child(cell, free.pop(0)))
                log(_started(cell, look(cell.config)))
            if waiting and not children:
                outcome.left += waiting  # too little time for another run
                return outcome
            for child in [child for child in children if child.finished() is not None]:
                children.remove(child)
                free.append(child.slot)
                if _is_due_again(child.cell, child.finished(), outcome, tries, retries, log):
                    waiting.append(child.cell)
            time.sleep(pause)
    return outcome


def _started(cell: Cell, found: Progress) -> str:
    how = f'continues at {100 * found.part:.0f}%' if found.part else 'starts'
    return f'{describe(cell)}: {how} ({log_path(cell)})'


def _is_due_again(
    cell: Cell,
    status: int | None,
    outcome: Outcome,
    tries: dict[Cell, int],
    retries: int,
    log: Log,
) -> bool:
    """Records the end of a run's process; returns whether to start the run again.

    Args:
        cell: the run.
        status: of the process; None if unknown.
        outcome: gets the run if it is done or has failed too often.
        tries: counts the failures of each run.
        retries: number of failures to allow.
        log: called with a message.
    """
    found = look(cell.config)
    if found.status == 'done':
        outcome.done.append(cell)
        log(f'{describe(cell)}: done')
        return False
    if found.status == 'changed':
        outcome.failed.append(cell)
        log(f'{describe(cell)}: {found.error}')
        return False
    how = last_line(cell)
    if status is not None and status < 0:
        how = f'killed by {signal.Signals(-status).name}'
    if status != INTERRUPTED:  # a run that someone stopped did not fail
        tries[cell] = tries.get(cell, 0) + 1
    if tries.get(cell, 0) > retries:
        outcome.failed.append(cell)
        log(f'{describe(cell)}: failed {tries[cell]} times: {how} ({log_path(cell)})')
        return False
    log(f'{describe(cell)}: ended early ({how}); it will restart')
    return True


def _stop(children: Sequence[Child], received: Sequence[int], log: Log) -> None:
    """Asks runs to save and exit, and waits for them; a second Ctrl-C kills them."""
    if children:
        log(f'Stopping {len(children)} runs; each saves its state (Ctrl-C again kills them)')
    for child in children:
        child.stop()
    before = len(received)
    while any(child.finished() is None for child in children):
        if len(received) > before:
            for child in children:
                child.process.kill()
        time.sleep(0.1)


# ---- Ray ----------------------------------------------------------------------------------------


def run_on_ray(
    cells: Sequence[Cell],
    address: str,
    log: Log,
    num_cpus: float = 1,
    num_gpus: float = 0,
    retries: int = 2,
) -> Outcome:
    """Runs the cells that are not complete on a Ray cluster whose nodes share the directory.

    A task whose node is lost restarts on another node, from the run's last checkpoint.

    Args:
        cells: the runs.
        address: of the cluster, such as 'auto'.
        log: called with progress messages.
        num_cpus: cores of a run.
        num_gpus: GPUs, or a fraction of one, of a run.
        retries: how often to restart a run that fails; lost nodes do not count.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            f'--ray_address={address}: Ray is not installed; '
            f'{os.path.relpath(sys.executable)} -m pip install -r experiments/requirements-ray.txt'
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level='ERROR')
    except ConnectionError as error:
        raise UserError(
            f'--ray_address={address}: no cluster there ({error}); start one: ray start --head'
        ) from None
    outcome, tasks = Outcome(), {}
    remote: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=-1)(execute)
    tries: dict[Cell, int] = {}

    def submit(cell: Cell) -> None:
        tasks[remote.remote(list(cell.arguments), os.getcwd(), str(log_path(cell)),
                            str(newest_copy(cell.config.directory)))] = cell  # fmt: skip

    with stopping() as received:
        for cell in cells:
            found = look(cell.config)
            if found.status == 'done':
                outcome.done.append(cell)
            elif found.status == 'changed':
                log(f'{describe(cell)}: {found.error}')
                outcome.failed.append(cell)
            else:
                submit(cell)
                log(f'{describe(cell)}: handed to Ray')
        while tasks and not received:
            ready, _ = ray.wait(list(tasks), timeout=1.0)
            for task in ready:
                cell = tasks.pop(task)
                if _is_due_again(cell, _status(task), outcome, tries, retries, log):
                    submit(cell)
        for task in tasks:
            ray.cancel(task)
        if tasks:
            ray.wait(list(tasks), num_returns=len(tasks), timeout=GRACE)
        outcome.left += tasks.values()
    ray.shutdown()
    return outcome


def _status(task: Any) -> int | None:
    """Returns the exit status from a finished Ray task; None if the task failed."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError:
        return None


def execute(arguments: Sequence[str], root: str, log: str, folder: str) -> int:
    """Runs main.py on a node and returns its exit status.

    Waits while another process has the run, which may still be saving on a node that Ray lost.
    """
    deadline = time.monotonic() + 10 * GRACE
    while is_at_work(pathlib.Path(folder)) and time.monotonic() < deadline:
        time.sleep(1)
    pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'a', encoding='utf-8') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', 'experiments.with_parent', 'main.py', *arguments],
            cwd=root,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            return process.wait()
        except BaseException:  # Ray cancels the task
            process.terminate()
            process.wait()
            raise
