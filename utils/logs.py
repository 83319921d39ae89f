"""What a run leaves behind: tables that grow, its settings, and Weights & Biases if asked for."""

import csv
import importlib.metadata
import json
import logging
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping

from utils.plots import learning_curve

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'gymnasium', 'mujoco', 'ogbench')


class Table:
    """A CSV file that is flushed row by row. Columns are those of the first row."""

    def __init__(self, path: pathlib.Path):
        self._file = path.open('w', newline='')
        self._writer = None

    def write(self, row: Mapping[str, float]) -> None:
        """Appends a row."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row))
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class RunLog:
    """The directory of a run and the tables in it."""

    def __init__(self, save_dir: str, group: str, env_name: str, method: str, seed: int):
        """Makes the directory `<save_dir>/<group>/<env_name>/<method>-sd<seed>-<time>`.

        Raises:
            ValueError: it cannot be written.
        """
        name = f'{method}-sd{seed:03d}-{time.strftime("%Y%m%d-%H%M%S")}'
        parent = pathlib.Path(save_dir).expanduser() / group / env_name
        self.directory, copy = parent / name, 1
        try:
            while self.directory.exists():
                self.directory, copy = parent / f'{name}-{copy}', copy + 1
            self.directory.mkdir(parents=True)
            self._tables = {
                name: Table(self.directory / f'{name}.csv')
                for name in ('offline', 'online', 'eval')
            }
        except OSError as error:
            raise ValueError(
                f'--save_dir={save_dir}: cannot write {self.directory} ({error.strerror}); '
                'choose a directory of yours'
            ) from error
        self._group, self._title = group, f'{env_name}, {method}'
        self._start = time.time()
        self._wandb = None

    def start(self, settings: Mapping, wandb_mode: str) -> None:
        """Writes `flags.json`."""
        write_json(self.directory / 'flags.json', settings)
        self._wandb = start_wandb(wandb_mode, self.directory, self._group, settings)

    def training(self, phase: str, step: int, row: Mapping[str, float]) -> None:
        """Appends a row to `offline.csv` or `online.csv`."""
        self._write(phase, phase, step, row)

    def evaluation(self, phase: str, step: int, scores: Mapping[str, float]) -> None:
        """Appends a row to `eval.csv` and draws `learning_curve.png` anew."""
        self._write('eval', phase, step, scores)
        learning_curve(
            {'success': [self.directory / 'eval.csv']},
            self.directory / 'learning_curve.png',
            self._title,
        )

    def _write(self, table: str, phase: str, step: int, row: Mapping[str, float]) -> None:
        seconds = round(time.time() - self._start, 1)
        self._tables[table].write({'phase': phase, 'step': step, 'seconds': seconds} | row)
        if self._wandb:
            prefix = 'evaluation' if table == 'eval' else phase
            self._wandb.log({f'{prefix}/{k}': v for k, v in row.items()} | {f'{phase}_step': step})

    def finish(self) -> None:
        """Closes everything."""
        for table in self._tables.values():
            table.close()
        if self._wandb:
            self._wandb.finish()


class RunLogs:
    """The directories of the seeds that are trained together, each like that of a run alone."""

    def __init__(self, save_dir: str, group: str, env_name: str, method: str, seeds: list[int]):
        """See `RunLog`."""
        self._seeds = seeds
        self._logs = [RunLog(save_dir, group, env_name, method, seed) for seed in seeds]

    @property
    def directories(self) -> list[pathlib.Path]:
        return [log.directory for log in self._logs]

    def start(self, settings: Mapping, wandb_mode: str) -> None:
        """Writes each `flags.json`, with the seed of its own."""
        for seed, log in zip(self._seeds, self._logs, strict=True):
            log.start(settings | {'flags': settings['flags'] | {'seed': seed}}, wandb_mode)

    def training(self, phase: str, step: int, rows: Iterable[Mapping[str, float]]) -> None:
        """Appends a row to each `offline.csv` or `online.csv`."""
        for log, row in zip(self._logs, rows, strict=True):
            log.training(phase, step, row)

    def evaluation(self, phase: str, step: int, scores: Iterable[Mapping[str, float]]) -> None:
        """Appends a row to each `eval.csv` and draws the pictures anew."""
        for log, row in zip(self._logs, scores, strict=True):
            log.evaluation(phase, step, row)

    def finish(self) -> None:
        """Closes everything."""
        for log in self._logs:
            log.finish()


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that decide a result, and the code's git commit."""
    root = pathlib.Path(__file__).parent.parent
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    git = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=40']
    try:
        result = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
        found['commit'] = result.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found['commit'] = None
    return found


def write_json(path: pathlib.Path, content: Mapping) -> None:
    """Writes settings for people and programs to read."""
    path.write_text(json.dumps(content, indent=2, default=str) + '\n')


def start_wandb(mode: str, run_dir: pathlib.Path, group: str, settings: Mapping):
    """Starts Weights & Biases, or not; it never stops or delays a run.

    Args:
        mode: 'disabled', 'offline' (files under the run's directory, for `wandb sync`) or
            'online' (the same as offline if there is no account or no network).
        run_dir: where its files go.
        group: `--run_group`.
        settings: shown with the run.

    Returns:
        The wandb run, or None.
    """
    if mode == 'disabled':
        return None
    import wandb

    if mode == 'online' and (problem := _wandb_problem()):
        logging.warning(
            '--wandb_mode=online: %s; logging offline to %s, `wandb sync` uploads it.',
            problem,
            run_dir / 'wandb',
        )
        mode = 'offline'
    try:
        return wandb.init(
            mode=mode,
            project='dfp',
            group=group,
            name=run_dir.name,
            dir=str(run_dir),
            config=dict(settings),
            settings=wandb.Settings(save_code=False, silent=True, init_timeout=20),
            reinit='create_new',  # seeds trained together are runs of their own
        )
    except Exception as error:  # whatever goes wrong there is not worth a run
        logging.warning('--wandb_mode=%s: did not start (%s); going on without.', mode, error)
        return None


def _wandb_problem() -> str | None:
    """Returns why uploads cannot work, or None."""
    netrc = pathlib.Path(os.environ.get('NETRC', '~/.netrc')).expanduser()
    has_key = os.environ.get('WANDB_API_KEY') or (
        netrc.is_file() and 'wandb' in netrc.read_text(errors='ignore')
    )
    if not has_key:
        return 'no account (run `wandb login`)'
    host = os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai').split('//')[-1].split('/')[0]
    host, _, port = host.partition(':')
    try:
        socket.create_connection((host, int(port or 443)), timeout=3).close()
    except OSError as error:
        return f'{host} cannot be reached ({error})'
    return None
