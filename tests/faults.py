"""Tries what goes wrong around a run, on real programs, and prints what happened as a table.

    python -m tests.faults --repeats=3 --output=docs/reliability.md

Needs Linux, and for the faults of a disk the right to mount one (root). The exit status is 1 if
something was not as it should be. What kills and stops do is in tests/reliability.py.
"""

import argparse
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tests'))
import toy_suite  # noqa: E402
from reliability import find_commit  # noqa: E402
from small_runs import read_table  # noqa: E402
from test_kill import FLAGS  # noqa: E402
from watched_runs import BAR, Run, Strike, equal, make_reference, processes, put_into, read  # noqa: E402

TIMEOUT = '--worker_timeout=2'
TOY = ['--suite=toy_suite:suite', f'--env_name={toy_suite.ENV_NAME}']


class Wrong(Exception):
    """Something was not as it should be."""


def require(condition: bool, what: object) -> None:
    if not condition:
        raise Wrong(str(what))


class Bench:
    """Where faults are tried: a folder, the flags of a small run, and what it comes to."""

    def __init__(self, directory: pathlib.Path, rng: random.Random):
        self.directory, self.rng, self.count = directory, rng, 0
        self.flags = [*FLAGS, f'--compilation_cache_dir={directory}/compiled']
        self.reference = make_reference(self.flags, directory / 'reference')
        require(not self.reference.problems, self.reference.problems)

    def place(self) -> pathlib.Path:
        self.count += 1
        return self.directory / str(self.count)

    def flags_for(self, place: pathlib.Path) -> list[str]:
        """Returns the flags of a run in a folder."""
        return [flag.format(directory=place) for flag in self.flags]

    def run(self, *flags: str) -> Run:
        """Starts a run."""
        run = Run([*self.flags, *flags], self.place())
        run.start()
        return run

    @contextlib.contextmanager
    def run_on_small_disk(self) -> Iterator[Run]:
        """Starts a run that writes to a disk of 8 MB."""
        run = Run(self.flags, self.place())
        disk = run.directory / 'exp'
        disk.mkdir()
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', disk], check=True)
        try:
            run.start()
            yield run
        finally:
            run.process.kill()
            run.process.wait()
            subprocess.run(['umount', '-l', disk], check=True)

    def wait_for(self, run: Run, moment: str, phase: str, delay: float = 0.3) -> None:
        is_there = run.reach(Strike(moment, phase), self.rng.uniform(0, delay))
        require(is_there, f'the run ended before {moment} in {phase}: {run.stderr[-2:]}')

    def expect_end(self, run: Run, status: int = 0, seconds: float = 120) -> list[str]:
        """Waits for the end of a run; returns the lines it wrote on stderr."""
        run.process.wait(seconds)
        lines = run.stderr
        require(run.process.returncode == status, f'status {run.process.returncode}: {lines[-3:]}')
        require(not any('Traceback' in line for line in lines), lines)
        run.check_that_nothing_is_left()
        require(not run.problems, run.problems)
        return lines

    def expect_equal(self, run: Run) -> None:
        """A run must be as if no simulator had failed, which it counts."""
        without = ('seconds', 'simulator_failures')
        require(equal(run.folder, self.reference.folder, without), 'differs')

    def expect_continuation(self, run: Run) -> None:
        """Starts a run again; it must end as if nothing had happened."""
        run.start()
        self.expect_end(run)
        require(equal(run.folder, self.reference.folder), 'differs from a run without the fault')


# ---- simulators ---------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Returns the processes that a process started."""
    found = []
    for path in processes('stat'):
        if (fields := read(path).rpartition(b')')[2].split()) and int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def simulators(run: Run) -> tuple[int, list[int]]:
    """Returns the process that starts simulators, and the simulators."""
    for pid in children(run.process.pid):
        if b'forkserver' in read(pathlib.Path(f'/proc/{pid}/cmdline')):
            return pid, children(pid)
    raise Wrong('no simulators')


def strike_simulators(bench: Bench, phase: str, number: int, moment: str) -> str:
    run = bench.run(TIMEOUT)
    bench.wait_for(run, moment, phase)
    for pid in simulators(run)[1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    lines = bench.expect_end(run)
    require(any('built anew' in line for line in lines), lines)
    bench.expect_equal(run)
    return 'built anew, the run went on, equal'


def strike_the_server(bench: Bench) -> str:
    run = bench.run(TIMEOUT)
    bench.wait_for(run, 'online', 'online')
    server, pids = simulators(run)
    for pid in [server, *pids]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    bench.expect_end(run)
    bench.expect_equal(run)
    return 'built anew, the run went on, equal'


# ---- disks --------------------------------------------------------------------------------------


def fill(disk: pathlib.Path) -> pathlib.Path:
    filler = disk / 'filler'
    with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
        while True:
            file.write(b'x' * 4096)
    return filler


def full_disk(bench: Bench, moment: str, phase: str) -> str:
    with bench.run_on_small_disk() as run:
        bench.wait_for(run, moment, phase, 0.05)
        filler = fill(run.directory / 'exp')
        run.process.wait(120)
        lines, status = run.stderr, run.process.returncode
        require(status in (0, 1), f'status {status}: {lines[-3:]}')
        require(max(map(len, lines), default=0) < 400 and len(lines) <= 20, lines)
        require(any('No space left' in line for line in lines), lines)
        filler.unlink()
        if status:
            bench.expect_continuation(run)
            return 'ended in one line; with room again, went on, equal'
        tables = [read_tables(x.folder) for x in (run, bench.reference)]
        require(tables[0] == tables[1], 'the tables differ')
        return 'went on without checkpoints, said so, equal'


def read_tables(folder: pathlib.Path) -> list:
    return [read_table(folder / f'{name}.csv') for name in ('offline', 'online', 'eval')]


def read_only_disk(bench: Bench) -> str:
    with bench.run_on_small_disk() as run:
        bench.wait_for(run, 'online', 'online', 0.05)
        run.process.send_signal(signal.SIGTERM)  # no file may be open for writing
        run.process.wait(60)
        remount = ['mount', run.directory / 'exp', '-o']
        subprocess.run([*remount, 'remount,ro'], check=True)
        message = start_program('main.py', *run.command[2:])
        require('cannot write' in message, message)
        subprocess.run([*remount, 'remount,rw'], check=True)
        bench.expect_continuation(run)
    return 'said in one line; writable again, went on, equal'


def vanished_folder(bench: Bench) -> str:
    run = bench.run()
    bench.wait_for(run, 'online', 'online', 0.05)
    shutil.rmtree(run.directory / 'exp')
    lines = bench.expect_end(run, status=1)
    require('cannot be written' in lines[-1] and len(lines) < 6, lines)
    bench.expect_continuation(run)
    return 'ended in one line; started again, equal'


# ---- other processes ----------------------------------------------------------------------------


def start_program(program: str, *arguments: str, **environment: str) -> str:
    """Runs a program that must end with one line; returns it."""
    command = [sys.executable, *program.split(), *arguments]
    path = {'PYTHONPATH': str(ROOT / 'tests')}
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | path | environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    require(result.returncode != 0, f'{arguments}: status 0')
    lines = [line.strip() for line in result.stderr.replace('\r', '\n').splitlines()]
    lines = [line for line in lines if line and not BAR.search(line)]
    require(len(lines) == 1 and 'Traceback' not in result.stderr, f'{arguments}: {lines}')
    return lines[0]


def the_same_run_twice(bench: Bench) -> str:
    run = bench.run()
    bench.wait_for(run, 'offline', 'offline')
    message = start_program('main.py', *run.command[2:])
    require('this run is at work already' in message, message)
    bench.expect_end(run)
    require(equal(run.folder, bench.reference.folder), 'differs')
    return 'the second was told so at once, the first equal'


def the_same_collection_twice(bench: Bench) -> str:
    place = bench.place()
    command = [sys.executable, '-m', 'envs.collect', f'--env_name={toy_suite.DATASET}']
    command += ['--suite=toy_suite:suite', '--num_episodes=3000', f'--save_dir={place}']
    environment = os.environ | {'PYTHONPATH': str(ROOT / 'tests')}
    both = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=300) for process in both]
    require([process.returncode for process in both] == [0, 0], told)
    require(told[0][0] == told[1][0], told)
    require(sum('Waiting for' in stderr for _, stderr in told) == 1, told)
    left = sorted(path.name for path in place.iterdir())
    require(len(left) == 3, left)
    return 'one did it, the other waited, same files'


def no_tracker(bench: Bench) -> str:
    environment = {'WANDB_API_KEY': 'x' * 40, 'WANDB_BASE_URL': 'http://127.0.0.1:9'}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        lines = bench.expect_end(bench.run('--wandb_mode=online'))
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    require(sum('cannot be reached' in line for line in lines) == 1, lines)
    return 'logged offline, said so in one line'


# ---- what users type ----------------------------------------------------------------------------


def mistakes(bench: Bench) -> Iterator[tuple[str, list[str]]]:
    """Yields programs and arguments that cannot work."""
    place = bench.place()
    file = place / 'file'
    place.mkdir(parents=True)
    file.write_text('x')
    data = f'--toy_dataset_dir={place}/data'
    for arguments in (
        ['--agent=agents/sac.py'], ['--agent.no_such=1'], ['--method=XYZ'], ['--no_such_flag'],
        ['stray'], ['--horizon_length=0'], ['--seed=-1'], ['--env_name=nothing-v0'],
        ['--discount=two'], ['--agent.batch_size=0'], ['--suite=nothing:suite'],
        [f'--restore_path={place}'], [f'--save_dir={file}'], ['--flagfile=/no/such.flags'],
        ['--offline_steps=0', '--online_steps=0'], ['--project=x'],
    ):  # fmt: skip
        yield 'main.py', [*TOY, data, f'--save_dir={place}/exp', *arguments]
    yield 'main.py', [*TOY, f'--toy_dataset_dir={file}', f'--save_dir={place}/exp']
    for arguments in (
        [], [f'--restore_path={place}'], ['--restore_path=/no/such'], ['--no_such_flag'],
        [f'--restore_path={file}'],
    ):  # fmt: skip
        yield 'evaluate.py', arguments
    script = ['--suite=toy_suite:suite', f'--env_name={toy_suite.DATASET}']
    for arguments in (
        [], ['--env_name=nothing', '--num_episodes=3'],
        [*script, '--num_episodes=0', f'--save_dir={place}'],
        [*script, '--num_episodes=3', f'--save_dir={file}'],
        [*script, '--num_episodes=3', '--save_dir=/proc/here'],
    ):  # fmt: skip
        yield '-m envs.collect', arguments


def user_mistakes(bench: Bench) -> str:
    tried = 0
    for program, arguments in mistakes(bench):
        message = start_program(program, *arguments)
        print(f'    {message[:150]}', flush=True)
        tried += 1
    require(not list(bench.directory.glob(f'{bench.count}/exp/*')), 'a folder was left')
    return f'{tried} command lines: one line each, nothing left'


def diverging_run(bench: Bench) -> str:
    import numpy as np

    place = bench.place()
    path = toy_suite.write_dataset(place / 'data')
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {'rewards': arrays['rewards'] * 1e30})
    message = start_program('main.py', *bench.flags_for(place), f'--save_dir={place}/exp')
    require('not finite at offline step 1; it has no checkpoint yet' in message, message)
    return 'ended in one line with step and terms'


# ---- all of them --------------------------------------------------------------------------------

Fault = Callable[[Bench], str]


def faults() -> dict[str, tuple[int, Fault]]:
    """Returns all faults: 1 for those that are repeated, 0 for those that are always the same."""

    def of_simulators(phase, number, moment) -> tuple[int, Fault]:
        return 1, lambda bench: strike_simulators(bench, phase, number, moment)

    def of_disk(moment, phase) -> tuple[int, Fault]:
        return 1, lambda bench: full_disk(bench, moment, phase)

    return {
        'simulators killed, online': of_simulators('online', signal.SIGKILL, 'online'),
        'simulators killed, evaluation': of_simulators('online', signal.SIGKILL, 'evaluation'),
        'simulators stopped (SIGSTOP), online': of_simulators('online', signal.SIGSTOP, 'online'),
        'simulators and what starts them killed': (1, strike_the_server),
        'disk full, offline': of_disk('offline', 'offline'),
        'disk full while saving': of_disk('saving', 'offline'),
        'disk full, online': of_disk('online', 'online'),
        'disk read-only at a start': (1, read_only_disk),
        "run's folder removed": (1, vanished_folder),
        'the same run started twice': (1, the_same_run_twice),
        'the same collection started twice': (1, the_same_collection_twice),
        'W&B out of reach': (0, no_tracker),
        'losses that are not finite': (0, diverging_run),
        'mistakes on the command line': (0, user_mistakes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=3, help='of faults at random moments')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--only', default='', help='part of the names of faults to try')
    parser.add_argument('--output', type=pathlib.Path, help='Markdown file with a place for it')
    options = parser.parse_args()
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(pathlib.Path(directory), random.Random(options.seed))
        for name, (is_repeated, fault) in faults().items():
            if options.only not in name:
                continue
            outcomes, times = {}, options.repeats if is_repeated else 1
            for _ in range(times):
                start = time.monotonic()
                try:
                    outcome = fault(bench)
                except (Wrong, subprocess.SubprocessError) as error:
                    outcome, failed = f'WRONG: {error}', True
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                print(f'{name}: {outcome} ({time.monotonic() - start:.0f} s)', flush=True)
            told = '; '.join(f'{outcome} ({n})' if len(outcomes) > 1 else outcome
                             for outcome, n in outcomes.items())  # fmt: skip
            rows.append(f'| {name} | {times} | {told} |')
    table = '\n'.join(['| fault | times | what happened |', '|---|---|---|', *rows])
    command = f'python -m tests.faults --repeats={options.repeats} --seed={options.seed}'
    table = f'    {command}\n\nCommit {find_commit()}, {time.strftime("%Y-%m-%d")}.\n\n{table}'
    print(table)
    if options.output:
        put_into(options.output, 'faults', table)
    sys.exit(failed)


if __name__ == '__main__':
    main()
