"""Reads the results of all runs into one long table; everything else in `reports` groups it.

A row of the table (a DataFrame) is one number of one seed at one step:

- method, task, identity: what was run; runs with one identity differ only in their seeds.
- data: fingerprint of the data set, '' if unknown.
- seed, phase, step: of the number. total_step counts online steps after the offline ones.
- metric, value: such as 'success' (a fraction), 'return', 'seconds' or 'critic/loss'.
- run: the folder or file it was read from; commit, device, versions: how the run was made.
"""

import csv
import io
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from utils.errors import UserError

GROUP = ['method', 'task', 'identity', 'data']  # runs that agree in these may be averaged
SEED = ['method', 'task', 'seed']
HOW = ['commit', 'device', 'versions']
COLUMNS = [*GROUP, 'seed', 'phase', 'step', 'total_step', 'metric', 'value', 'run', *HOW]
GATHERED = ['success', 'return', 'length', 'seconds']  # metrics in files of gathered results
Warn = Callable[[str], None]


def warn_user(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr)


# ---- reading ------------------------------------------------------------------------------------


def read(
    paths: Iterable[pathlib.Path], warn: Warn = warn_user, unfinished: bool = False
) -> pd.DataFrame:
    """Returns the evaluations of runs.

    Args:
        paths: folders of runs, or the `eval.csv` in them; or files that `gather` wrote.
        warn: called with a line for each run or row that is skipped, because it is empty, damaged
            or unfinished, or a newer copy has its seeds.
        unfinished: whether to include unfinished runs.
    """
    folders = {path.parent if path.name == 'eval.csv' else path for path in paths}
    parts = [_long(pd.DataFrame(), '', 0, warn)]
    for path in sorted(folders, key=lambda path: (len(path.name), path)):  # copies: …, …-2, …-10
        status = 'done' if unfinished else _json(path / 'status.json').get('status', 'done')
        if status != 'done':
            warn(f'{path}: unfinished ({status}); skipped')
            continue
        part = read_results(path, warn) if path.suffix == '.csv' else read_run(path, warn)
        if part.empty:
            warn(f'{path}: no results; skipped')
        parts.append(part)
    return newest(pd.concat(parts, ignore_index=True), [*GROUP, 'seed'], warn)


def read_run(
    folder: pathlib.Path, warn: Warn = warn_user, tables: Iterable[str] = ('eval',), **names: str
) -> pd.DataFrame:
    """Returns what one run has written so far; no rows if the folder is missing.

    Args:
        folder: of the run. If it lacks `flags.json`, its name must be `<task>/<method>-sd<seed>…`.
        warn: called with a line about damaged rows.
        tables: 'eval', 'offline', 'online'.
        **names: `method` or `task`, to override the run's own.
    """
    where = folder.absolute()
    about = {'method': re.sub(r'-sd\d{3}.*', '', where.name), 'task': where.parent.name}
    about |= dict.fromkeys(['identity', 'data', *HOW], '')
    if written := _json(folder / 'flags.json'):
        flags, versions = written['flags'], written['versions']
        used = versions | {'python': written['machine'].get('python')}
        about |= {
            'method': flags['method'] or written['agent']['agent_name'],
            'task': flags['env_name'],
            'identity': written['identity'],
            'data': written['data'].get('fingerprint', ''),
            'commit': versions['commit'] or '',
            'device': written['machine']['device'],
            'versions': '; '.join(f'{x} {used[x]}' for x in ('jax', 'mujoco', 'python') if used[x]),
        }
    found = [_rows(folder / f'{table}.csv') for table in tables]
    rows = pd.concat([rows for rows, _ in found]).assign(**about | names | {'run': str(folder)})
    return _long(rows, folder, sum(lost for _, lost in found), warn)


def read_results(path: pathlib.Path, warn: Warn = warn_user) -> pd.DataFrame:
    """Returns the rows of a file of gathered results; none if the file is missing.

    Raises:
        UserError: it is not a file of results.
    """
    rows, lost = _rows(path)
    if len(rows) and 'method' not in rows:
        raise UserError(f'{path}: has no column method; use a file from reproduce.py gather')
    rows = rows.assign(run=str(path), data=rows.get('data', ''))
    return _long(rows, path, lost, warn)


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return {}  # results are often kept without it


def _rows(path: pathlib.Path) -> tuple[pd.DataFrame, int]:
    """Returns the complete rows of a CSV file, as text, and the number of damaged ones."""
    try:
        text, _, rest = path.read_text('utf-8', errors='replace').rpartition('\n')
    except OSError:
        text = rest = ''
    names, *rows = [*csv.reader(io.StringIO(text))] or [[]]
    whole = [row for row in rows if len(row) == len(names)]
    lost = len(rows) - len(whole) + bool(rest)  # a last line without a newline is incomplete
    return pd.DataFrame(whole, columns=names), lost


def _long(rows: pd.DataFrame, path: pathlib.Path | str, lost: int, warn: Warn) -> pd.DataFrame:
    """Turns rows of a wide table into rows of the long one; drops empty cells."""
    table = rows.melt([name for name in rows if name in COLUMNS], var_name='metric')
    table = table.reindex(columns=COLUMNS, fill_value='')
    table = table[table['value'].notna() & (table['value'] != '')]
    numbers = table[['seed', 'step', 'value']].apply(pd.to_numeric, errors='coerce').astype(float)
    whole = np.isfinite(numbers).all(axis=1) & table['phase'].isin(['offline', 'online'])
    if problems := lost + int((~whole).sum()):
        warn(f'{path}: {problems} rows or cells are damaged or not finite; skipped')
    table = table.assign(**numbers)[whole].astype({'seed': int, 'step': int})
    offline = table['step'].where(table['phase'] == 'offline', 0)
    ends = offline.groupby([table[name] for name in (*GROUP, 'run')]).transform('max')
    return table.assign(total_step=table['step'] + ends.where(table['phase'] == 'online', 0))


# ---- choosing -----------------------------------------------------------------------------------


def newest(table: pd.DataFrame, key: list[str], warn: Warn = lambda _: None) -> pd.DataFrame:
    """Returns the table without runs whose key, such as `SEED`, also belongs to a later run."""
    older = table['run'] != table.groupby(key)['run'].transform('last')
    for run in table['run'][older].unique():
        warn(f'{run}: a newer run has the same seeds; skipped')
    return table[~older]


def scores(table: pd.DataFrame, warn: Warn = warn_user) -> pd.DataFrame:
    """Returns the score of each evaluation: success in % where the task has it, else the return.

    Within a `GROUP`, drops the seeds that end before half of them do, and then the steps that one
    of the remaining seeds lacks, such as those to which only some seeds were trained.

    Args:
        table: of evaluations.
        warn: called with a line for each group that loses rows.
    """
    has_success = table['task'].isin(table['task'][table['metric'] == 'success'])
    table = table[table['metric'] == np.where(has_success, 'success', 'return')]
    table = table.assign(value=table['value'] * np.where(table['metric'] == 'success', 100, 1))
    for (method, task, *_), group in table.groupby(GROUP):
        last = group.groupby('seed')['total_step'].max()
        reached = last.sort_values(ascending=False).iloc[(len(last) - 1) // 2]  # by half of them
        short = last.index[last < reached].tolist()
        whole = group[~group['seed'].isin(short)]
        seeds = whole.groupby(['phase', 'step'])['seed'].transform('nunique')
        gaps = whole[seeds < whole['seed'].nunique()]
        if short or len(gaps):
            parts = [f'seeds {short} end before the others'] if short else []
            if len(gaps):
                parts.append(f'steps {sorted({*gaps["total_step"]})} lack a seed')
            warn(f'{method}, {task}: {", ".join(parts)}; skipped')
            table = table.drop(group.index.difference(whole.index).union(gaps.index))
    return table


def score_name(metrics: Iterable[str]) -> str:
    """Returns the name of the score of some tasks, for an axis label."""
    (name, *others) = {*metrics} or {'success'}
    return 'score' if others else {'success': 'success (%)'}.get(name, name)


# ---- gathering ----------------------------------------------------------------------------------


def merged(path: pathlib.Path, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a file of results, with those of `table` in place of the same seeds."""
    return newest(pd.concat([read_results(path), table], ignore_index=True), SEED)


def gather(path: pathlib.Path, table: pd.DataFrame) -> int:
    """Adds runs to a file of results, one row per evaluation; returns its number of rows.

    They replace rows of the same seed, method and task.
    """
    table = merged(path, table)
    index = ['task', *(name for name in SEED if name != 'task'), 'phase', 'step', *GROUP[2:], *HOW]
    rows = table[table['metric'].isin(GATHERED)].pivot_table('value', index, 'metric', 'last')
    rows = rows.reindex(columns=GATHERED).reset_index()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    columns = [*SEED, 'phase', 'step', *GATHERED, 'identity', *HOW, 'data']
    rows.to_csv(part, index=False, columns=columns)
    part.replace(path)
    return len(rows)
