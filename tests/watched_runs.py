"""Runs of main.py as programs of their own: watched from outside, struck by signals, compared."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

import numpy as np
from small_runs import outcome

ROOT = pathlib.Path(__file__).parents[1]
MARK = 'RELIABILITY_RUN'  # in the environment of every process of a run
INTERRUPTED, AT_ONCE = 75, 130  # exit statuses
BAR = re.compile(r'\[\d+:\d\d.*\]$')  # how the line of a progress bar ends
SHARED_MEMORY = pathlib.Path('/dev/shm')


@dataclasses.dataclass
class Strike:
    """A signal sent to a run: planned, then what came of it."""

    moment: str  # when: planned, and after the strike what it was found to be
    phase: str = ''  # for moments that both phases have
    signals: tuple[int, ...] = (signal.SIGKILL,)
    longest_delay: float = 0.5
    variant: str = ''
    resumed: bool = False
    equal: bool = False
    seconds_to_end: float = 0.0
    seconds_to_resume: float | None = None

    @property
    def kills(self) -> bool:
        """Whether the run cannot do anything about it."""
        return signal.SIGKILL in self.signals

    @property
    def name(self) -> str:
        name = signal.Signals(self.signals[0]).name
        return name if len(self.signals) == 1 else f'{name} twice'


class Run:
    """A run that is started again and again by one command, and watched from outside."""

    def __init__(self, flags: Iterable[str], directory: pathlib.Path):
        """Starts nothing yet.

        Args:
            flags: of main.py; '{directory}' in them becomes `directory`.
            directory: made for the run.
        """
        self.directory, self.problems = directory, []
        directory.mkdir(parents=True)
        flags = [flag.format(directory=directory) for flag in flags]
        self.command = [sys.executable, 'main.py', *flags, f'--save_dir={directory}/exp']
        self.process: subprocess.Popen | None = None

    @property
    def folder(self) -> pathlib.Path:
        """The run's own folder, or one that does not exist."""
        return next(self.directory.glob('exp/*/*/*/'), self.directory / 'none')

    @property
    def status(self) -> dict:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / 'status.json').read_text())
        return {}

    def start(self) -> None:
        self.num_starts = len(self.status.get('starts', []))
        self.seconds_to_resume = None
        self.shared_memory = set(os.listdir(SHARED_MEMORY))
        self.start_time, self.clock = time.time(), time.monotonic()
        environment = {MARK: str(self.directory), 'PYTHONPATH': str(ROOT / 'tests')}
        with (self.directory / 'stderr.txt').open('w') as stderr:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=os.environ | environment,
                stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip

    @property
    def stderr(self) -> list[str]:
        """The lines the last start wrote, without progress bars."""
        text = (self.directory / 'stderr.txt').read_text()
        lines = [line.strip() for line in text.replace('\r', '\n').splitlines()]
        return [line for line in lines if line and not BAR.search(line)]

    def moment(self) -> tuple[str, str]:
        """Returns what the run is doing, or was doing when it ended, and its phase."""
        status = self.status
        if len(status.get('starts', [])) <= self.num_starts:
            return 'collection' if any(self.directory.glob('data/*.part')) else 'start-up', ''
        if self.seconds_to_resume is None:
            self.seconds_to_resume = time.monotonic() - self.clock
            self._check_left_over_files()
        phase = status['phase']
        if any(self.folder.glob('checkpoints/.unfinished-*')):
            return 'saving', phase
        row = last_row(self.folder / f'{phase}.csv')
        evaluates = row is not None and row != last_row(self.folder / 'eval.csv')
        return 'evaluation' if evaluates else phase, phase

    def _check_left_over_files(self) -> None:
        for path in [
            *self.folder.glob('checkpoints/.unfinished-*'),
            *self.directory.glob('data/*.part'),
        ]:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ctime < self.start_time:
                    self.problems.append(f'{path} was left by the start before')

    def reach(self, strike: Strike, delay: float) -> bool:
        """Waits for a strike's moment and a delay; returns False if the run ended before."""
        while self.process.poll() is None:
            moment, phase = self.moment()
            is_there = moment == strike.moment and strike.phase in ('', phase)
            if is_there and (strike.kills or catches_signals(self.process)):
                break
            time.sleep(0.003)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(delay)
        return self.process.poll() is None

    def finish(self) -> None:
        """Waits for the end of the run."""
        while self.process.poll() is None:
            self.moment()
            time.sleep(0.02)
        if self.process.returncode != 0:
            self._fail(f'exit status {self.process.returncode}, {self.stderr[-3:]}')
        self.check_that_nothing_is_left()

    def strike(self, strike: Strike) -> None:
        """Sends the signals, and checks how the process ends."""
        clock = time.monotonic()
        before = self.moment()[0]
        for number in strike.signals:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1 if len(strike.signals) > 1 else 30)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self._fail(f'{strike.name} in {strike.moment}: still there after 30 s')
            self.process.kill()
            self.process.wait()
        strike.seconds_to_end = time.monotonic() - clock
        strike.moment = before
        if not strike.kills:
            self._check_farewell(strike)
        # A collection that dies removes its files, by which it would be known.
        elif before != 'collection' or any(self.directory.glob('data/*.npz')):
            strike.moment = self.moment()[0]
        self.check_that_nothing_is_left()

    def _check_farewell(self, strike: Strike) -> None:
        """Checks the exit status, and the line that says how to continue, which is then obeyed.

        A second Ctrl-C ends a run at once, unless it has said that already.
        """
        lines, where = self.stderr, f'{strike.name} in {strike.moment}'
        hints = [line for line in lines if 'Continue with: ' in line]
        expected = AT_ONCE if len(strike.signals) > 1 and not hints else INTERRUPTED
        if self.process.returncode != expected:
            self._fail(f'{where}: exit status {self.process.returncode}, {lines[-3:]}')
        if any('Traceback' in line for line in lines):
            self._fail(f'{where}: a traceback, {lines}')
        if expected == AT_ONCE:
            return
        if len(hints) != 1 or lines[-1] != hints[0] or not lines[-1].startswith('Interrupted by '):
            self._fail(f'{where}: {len(hints)} lines say how to continue, {lines}')
            return
        command = shlex.split(hints[0].partition('Continue with: ')[2])
        if command[1:] != self.command[1:]:
            self._fail(f'{where}: says {command}')
        self.command = command

    def check_that_nothing_is_left(self) -> None:
        """Checks that within 10 s no process and no shared memory of the run is left."""
        deadline = time.monotonic() + 10
        while (left := self._processes() + self._new_shared_memory()) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.1)
        if left:
            self._fail(f'left behind: {left}')

    def _processes(self) -> list[str]:
        mark = f'{MARK}={self.directory}'.encode()
        return [f'process {path.parent.name}' for path in processes('environ')
                if mark in read(path).split(b'\0')]  # fmt: skip

    def _new_shared_memory(self) -> list[str]:
        """What came since the start and is in no process's memory: others use the machine, too."""
        if not (new := set(os.listdir(SHARED_MEMORY)) - self.shared_memory):
            return []
        maps = b''.join(read(path) for path in processes('maps'))
        return [name for name in new if f'{SHARED_MEMORY}/{name}'.encode() not in maps]

    def _fail(self, problem: str) -> None:
        self.problems.append(problem)
        print(f'PROBLEM {self.directory}: {problem}', flush=True)


def processes(file: str) -> list[pathlib.Path]:
    """Returns a file of every process."""
    return list(pathlib.Path('/proc').glob(f'[0-9]*/{file}'))


def read(path: pathlib.Path) -> bytes:
    """Returns what is in a file, nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b''


def catches_signals(process: subprocess.Popen) -> bool:
    """Tells whether a process has come so far that it handles SIGUSR1 by itself."""
    for line in read(pathlib.Path(f'/proc/{process.pid}/status')).splitlines():
        if line.startswith(b'SigCgt:'):
            return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    return False


def last_row(path: pathlib.Path) -> tuple[str, str] | None:
    """Returns phase and step of the last complete row of a table, or None."""
    rows = read(path).decode().rpartition('\n')[0].splitlines()[1:]
    return tuple(rows[-1].split(',')[:2]) if rows else None


def equal(first: pathlib.Path, second: pathlib.Path, without=('seconds',)) -> bool:
    """Whether two runs have the same results, bit by bit and row by row."""
    (arrays, tables), (others, other_tables) = outcome(first, without), outcome(second, without)
    return (
        tables == other_tables
        and arrays.keys() == others.keys()
        and all(np.array_equal(x, others[name]) for name, x in arrays.items())
    )


def make_reference(flags, directory: pathlib.Path) -> Run:
    """Makes a run without a stop; see its `problems`."""
    run = Run(flags, directory)
    run.start()
    run.finish()
    return run


def endure(flags, directory: pathlib.Path, plan: list[Strike], reference: Run, rng) -> list[str]:
    """Makes a run and strikes it as planned; makes another one when it ends before; compares.

    Returns:
        What went wrong.
    """
    problems, plan = [], list(plan)
    for attempt in range(len(plan) + 1):
        run, struck = Run(flags, directory / str(attempt)), []
        while run.process is None or run.process.returncode != 0:
            run.start()
            is_struck = bool(plan) and run.reach(plan[0], rng.uniform(0, plan[0].longest_delay))
            if is_struck:
                run.strike(plan[0])
            else:
                run.finish()
            if run.seconds_to_resume is not None or not is_struck:
                resume(struck, run)
            if not is_struck and run.process.returncode != 0:
                break
            if is_struck:
                struck.append(plan.pop(0))
                print(f'{directory.name}: {struck[-1].name} in {struck[-1].moment}', flush=True)
        problems += run.problems
        if run.process.returncode != 0:
            return problems
        problems += compare(run, reference, struck)
        if not plan:
            return problems
    return [*problems, f'{directory}: never came to {plan[0]}']


def resume(struck: list[Strike], run: Run) -> None:
    """Notes that a run went on after strikes."""
    if struck and not struck[-1].resumed:
        struck[-1].seconds_to_resume = run.seconds_to_resume
    for strike in struck:
        strike.resumed = True


def compare(run: Run, reference: Run, struck: list[Strike]) -> list[str]:
    """Records whether a run has the reference's results; returns what went wrong."""
    is_equal = equal(run.folder, reference.folder)
    for strike in struck:
        strike.equal = is_equal
    print(f'{run.directory}: {len(struck)} strikes, {"equal" if is_equal else "DIFFERENT"}')
    return [] if is_equal else [f'{run.directory} differs from {reference.directory}']


def put_into(path: pathlib.Path, place: str, text: str) -> None:
    """Replaces what stands between `<!-- place -->` and the next `<!-- end -->` in a file."""
    pattern = rf'(<!-- {place} -->\n).*?(\n<!-- end -->)'
    new, count = re.subn(
        pattern, lambda match: match[1] + text + match[2], path.read_text(), flags=re.DOTALL
    )
    assert count == 1, f'{path}: no <!-- {place} -->'
    path.write_text(new)
