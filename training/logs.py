"""A run's folder: its lock and status, its tables and its settings."""

import contextlib
import csv
import errno
import importlib.metadata
import io
import json
import logging
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from filelock import Timeout

from envs import locks
from training.wandb_runs import WandbRuns
from utils.errors import UserError

PACKAGES = (
    *('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'gymnasium', 'mujoco'),
    *('ogbench', 'robosuite', 'robomimic'),
)
TABLES = ('offline', 'online', 'eval')
STATUS, LOCK = 'status.json', '.lock'
DRAW_SECONDS = 10.0  # between drawings of the learning curve, which take a few tenths of a second


class Table:
    """A CSV file, flushed after every row. The first row determines the columns."""

    def __init__(self, path: pathlib.Path, size: int = 0):
        """Opens the file.

        Args:
            path: of the file, created if missing.
            size: bytes to keep. The rest was written after the checkpoint from which the run
                continues, and is removed.

        Raises:
            UserError: the file is shorter than `size`.
        """
        self._path = path
        with cannot_write(path):
            self._file = path.open('a+', newline='', encoding='utf-8')
        found = path.stat().st_size
        if found < size:
            raise UserError(
                f'{path}: has {found} bytes, but had {size} at the checkpoint; restore it, or '
                'start a new run with --fresh'
            )
        self._columns: list[str] | None = None
        if found > size:
            self._file.truncate(size)
        if size:
            self._file.seek(0)
            self._columns = next(csv.reader(self._file))
            self._file.seek(0, io.SEEK_END)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row. The names in the file's first row are its columns.

        Missing columns stay empty. Names without a column, from a newer version of the code, are
        omitted.

        Raises:
            UserError: it cannot be written, for example because the disk is full.
        """
        columns = self._columns or list(row)
        writer = csv.DictWriter(self._file, columns, extrasaction='ignore')
        with cannot_write(self._path):
            if self._columns is None:
                writer.writeheader()
            writer.writerow(row)
            self._file.flush()
            if not os.fstat(self._file.fileno()).st_nlink:
                raise FileNotFoundError(errno.ENOENT, 'it was removed')
        self._columns = columns

    @property
    def size(self) -> int:
        """Bytes written."""
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Waits until all rows are on disk."""
        with cannot_write(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a failed row has been reported already
            self._file.close()


@contextlib.contextmanager
def cannot_write(path: pathlib.Path) -> Iterator[None]:
    """Turns OSError into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'{path}: cannot be written ({error.strerror or error}); the run ends. Fix that and '
            'start it again: it continues from its last checkpoint'
        ) from error


class RunFolder:
    """The folder of a run, held by one process at a time.

    `status.json` has the run's `status`: 'running', 'interrupted', 'failed' (with the error) or
    'done'. An interrupted or failed run continues when it is started again. So does a killed run:
    its status is still 'running', but process `pid` on `host` is gone.
    """

    def __init__(self, path: pathlib.Path):
        """Creates the folder if missing, and locks it.

        Raises:
            UserError: the folder cannot be written, or another process has locked it.
        """
        self.path = path
        self._made = [each for each in [path, *path.parents] if not each.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = locks.acquire(path / LOCK, timeout=1)  # `is_at_work` holds it briefly
        except Timeout:
            status = read_status(path)
            who = f' (process {status["pid"]} on {status["host"]})' if status else ''
            raise UserError(
                f'{path}: already running{who}; wait for it, or start another run with --fresh'
            ) from None
        except OSError as error:
            raise UserError(
                f'--save_dir: cannot write {path} ({error.strerror}); choose a writable directory'
            ) from error

    def write_status(self, status: str, **more) -> None:
        """Updates `status.json`; other fields keep their values.

        Raises:
            UserError: it cannot be written.
        """
        now = {
            'status': status,
            'updated': time.strftime('%Y-%m-%d %H:%M:%S %z'),
            'host': socket.gethostname(),
            'pid': os.getpid(),
        }
        file = self.path / STATUS
        with cannot_write(file):
            write_json(file, read_status(self.path) | now | more)

    def close(self) -> None:
        """Releases the lock, and removes the folder if it was created here and is empty."""
        if self._made and not any(path.name != LOCK for path in self.path.glob('*')):
            with contextlib.suppress(OSError):  # not empty: another run started there
                (self.path / LOCK).unlink()
                for path in self._made:
                    path.rmdir()
        self._lock.release()


def is_at_work(folder: pathlib.Path) -> bool:
    """Whether a process holds the folder of a run; False if the file system cannot tell."""
    return locks.is_held(folder / LOCK)


def read_status(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the content of `status.json`, or {} if there is none."""
    return read_json(folder / STATUS)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file, or {} if there is none."""
    try:
        found = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def newest_copy(folder: pathlib.Path) -> pathlib.Path:
    """Returns the newest of a run's folders: `folder`, or `<folder>-2`, `-3`, … made by --fresh."""
    return max(_copies(folder).items())[1]


def next_copy(folder: pathlib.Path) -> pathlib.Path:
    """Returns a folder for the same run that does not exist yet."""
    if not folder.exists():
        return folder
    return folder.with_name(f'{folder.name}-{max(_copies(folder)) + 1}')


def _copies(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the folders of a run by their numbers; the first has none in its name."""
    found = {1: folder}
    for path in folder.parent.glob(f'{folder.name}-*'):
        number = path.name.removeprefix(f'{folder.name}-')
        if number.isdecimal():
            found[int(number)] = path
    return found


class RunLog:
    """The tables of a run, with a row per seed, and the learning curve drawn from them."""

    def __init__(
        self, folder: pathlib.Path, config: Any, sizes: Mapping[str, int], seconds: float = 0.0
    ):
        """Opens the tables, and W&B unless `wandb_mode` is 'disabled'.

        Args:
            folder: of the run.
            config: of the run, a `RunConfig`.
            sizes: bytes to keep of each table, by default 0; see `Table`.
            seconds: duration of the run before this process.
        """
        self._folder, self._config = folder, config
        self._tables = {name: Table(folder / f'{name}.csv', sizes.get(name, 0)) for name in TABLES}
        self._start = time.monotonic() - seconds  # clocks are set, by days at times
        self._last_drawing = time.monotonic()
        self._outdated = bool(sizes.get('eval'))  # a killed process may not have drawn it
        self._wandb: WandbRuns | None = None
        if config.wandb_mode != 'disabled':
            self._wandb = WandbRuns(folder, config.seeds, config.to_json())

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each table."""
        return {name: table.size for name, table in self._tables.items()}

    @property
    def seconds(self) -> float:
        """Duration of the run so far in seconds, including earlier processes."""
        return time.monotonic() - self._start

    def write(
        self, table: str, phase: str, step: int, rows: Iterable[Mapping[str, float | None]]
    ) -> None:
        """Appends a row per seed to a table.

        Args:
            table: 'offline', 'online' or 'eval'. After 'eval', `learning_curve.png` is redrawn if
                the last drawing is `DRAW_SECONDS` old.
            phase: 'offline' or 'online'.
            step: of the phase.
            rows: one per seed, all with the same names; None is an empty cell.
        """
        seconds = round(self.seconds, 1)
        for i, (seed, row) in enumerate(zip(self._config.seeds, rows, strict=True)):
            where = {'phase': phase, 'step': step, 'seed': seed, 'seconds': seconds}
            self._tables[table].write(where | dict(row))
            if self._wandb:
                self._wandb.log(i, table, phase, step, dict(row) | {'seconds': seconds})
        if table == 'eval':
            self._outdated = True
            if time.monotonic() - self._last_drawing >= DRAW_SECONDS:
                self.draw()

    def draw(self) -> None:
        """Draws the learning curve if there are new rows. Errors are logged as warnings."""
        if not self._outdated:
            return
        self._outdated = False
        try:
            from training import learning_curve  # matplotlib is slow to import

            picture = self._folder / 'learning_curve.png'
            title = f'{self._config.env_name}, {self._config.label}'
            learning_curve.draw(self._folder / 'eval.csv', picture, title)
        except Exception as error:  # a picture must not stop a run
            problem = ' '.join(f'{type(error).__name__}: {error}'.split())
            logging.warning('learning_curve.png: not drawn (%s); the run continues.', problem)
        self._last_drawing = time.monotonic()

    def sync(self) -> None:
        """Waits until the rows are on disk."""
        for table in self._tables.values():
            table.sync()

    def close(self) -> None:
        """Draws the learning curve, closes the tables, and ends the W&B runs."""
        self.draw()
        for table in self._tables.values():
            table.close()
        if self._wandb:
            self._wandb.finish()


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that affect results, and the code's git commit."""
    root = pathlib.Path(__file__).parent.parent
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a suite that is not installed
            found[package] = None
    git = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=40']
    try:
        result = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
        found['commit'] = result.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found['commit'] = None
    return found


def write_json(path: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON file atomically: readers see the old content or the new."""
    part = path.with_name(f'.{path.name}.part')
    try:
        part.write_text(json.dumps(content, indent=2, default=str) + '\n', 'utf-8')
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
