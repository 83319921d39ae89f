"""Weights & Biases: one run per seed, with metric names that match FQL and QC."""

import json
import logging
import os
import pathlib
import secrets
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any

from training.interruption import Interrupted

PATIENCE = 15  # seconds for uploads at the end: a stopped run must end within 30
# Columns of the tables with another name in FQL and QC.
NAMES = {
    'return': 'episode.return',
    'length': 'episode.length',
    'critic/loss': 'critic/critic_loss',
}


class WandbRuns:
    """A W&B run per seed. Its failures are logged as warnings and never stop the training.

    W&B's step counts through both phases: offline steps, then offline_steps + online steps.
    """

    def __init__(self, folder: pathlib.Path, seeds: Sequence[int], settings: Mapping[str, Any]):
        """Starts the runs, or continues those of the same folder.

        Args:
            folder: of the run; W&B's files go there.
            seeds: trained together, a W&B run each.
            settings: of the run. `wandb_mode` is 'offline' (for `wandb sync` later) or 'online'
                (the same as offline if there is no account or no network).
        """
        self._offline_steps = settings['offline_steps']
        self._runs: list[Any] = []
        then = {
            'online': f'logging offline, `wandb sync {folder / "wandb"}` uploads it',
            'offline': 'continuing without',
        }
        for mode in then if settings['wandb_mode'] == 'online' else ['offline']:
            try:
                self._runs = [_start(mode, folder, seed, settings) for seed in seeds]
                break
            except Interrupted:
                raise
            except Exception as error:  # W&B must not stop a run
                self._give_up(f'--wandb_mode={mode}: did not start', error, then[mode])

    def log(self, index: int, table: str, phase: str, step: int, row: Mapping[str, Any]) -> None:
        """Logs a row of a table.

        Args:
            index: of the seed.
            table, phase, step: as in `RunLog.write`.
            row: of the table, with 'seconds'.
        """
        if not self._runs:
            return
        step += self._offline_steps if phase == 'online' else 0
        values = {
            name: value
            for key, value in row.items()
            if isinstance(value, Real)  # a cell may be empty
            for name in names(table, key)
        }
        try:
            self._runs[index].log(values, step=step)
        except Exception as error:
            self._give_up('W&B: stopped logging', error)

    def finish(self) -> None:
        """Ends the runs after uploading, but waits no longer than `PATIENCE`."""
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda run: run.finish(), self._runs))
        except Exception as error:
            self._give_up('W&B: did not end', error)

    def _give_up(self, what: str, error: Exception, then: str = 'continuing without') -> None:
        logging.warning('%s (%s); %s.', what, ' '.join(str(error).split()), then)
        self._runs = []


def names(table: str, column: str) -> list[str]:
    """Returns the names of a table's column in W&B.

    Evaluations have two: 'evaluation/…' as in FQL, and 'eval/…' as in QC. The others have FQL's.
    """
    if column == 'seconds':
        return ['time/total_time']
    prefixes = ['evaluation', 'eval'] if table == 'eval' else ['training']
    return [f'{prefix}/{NAMES.get(column, column)}' for prefix in prefixes]


def _start(mode: str, folder: pathlib.Path, seed: int, settings: Mapping[str, Any]) -> Any:
    # W&B mistakes our package `agents` for another one of that name and advertises Weave.
    os.environ.setdefault('WANDB_DISABLE_WEAVE', 'true')
    import wandb

    if mode == 'online' and (problem := _problem()):
        raise ConnectionError(problem)
    return wandb.init(
        mode='offline' if mode == 'offline' else 'online',
        project=settings['wandb_project'],
        entity=settings['wandb_entity'],
        tags=[tag.strip() for tag in settings['wandb_tags'].split(',') if tag.strip()],
        group=settings['run_group'],
        name=f'{folder.name}-sd{seed:03d}',
        id=f'{_kept_id(folder)}-sd{seed:03d}',
        resume='allow',
        dir=str(folder),
        config=dict(settings),
        settings=wandb.Settings(
            save_code=False, silent=True, init_timeout=20, finish_timeout=PATIENCE
        ),
        reinit='create_new',  # one run per seed
    )


def _kept_id(folder: pathlib.Path) -> str:
    """Returns the prefix of the ids of a folder's W&B runs.

    It is drawn once and kept in the folder, so a continued run keeps it.
    """
    path = folder / 'wandb.json'
    if not path.exists():
        part = path.with_name('.wandb.json.part')
        part.write_text(json.dumps({'id': secrets.token_hex(4)}), 'utf-8')
        part.replace(path)
    return json.loads(path.read_text('utf-8'))['id']


def _problem() -> str | None:
    """Returns why uploads cannot work, or None if they can."""
    netrc = pathlib.Path(os.environ.get('NETRC', '~/.netrc')).expanduser()
    has_key = os.environ.get('WANDB_API_KEY') or (
        netrc.is_file() and 'wandb' in netrc.read_text('utf-8', errors='ignore')
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
