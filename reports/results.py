"""What runs came to, as one CSV file: gathered from their folders, read by tables and curves.

Columns: method, task, seed, phase, step, success, return, length, seconds, identity, commit,
device, versions. `method` is the cell's name, such as 'DFP' or 'DFP top_k=1'; success is a
fraction. Older files have no versions.
"""

import csv
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from reports.curves import read_table
from utils.errors import UserError

COLUMNS = (
    *('method', 'task', 'seed', 'phase', 'step', 'success', 'return', 'length', 'seconds'),
    *('identity', 'commit', 'device', 'versions'),
)
KEY = ('method', 'task', 'seed')


class Seed(NamedTuple):
    """One seed of a method on a task: success (%) by step of each phase."""

    seed: int
    offline: dict[int, float]
    online: dict[int, float]


def rows_of(method: str, task: str, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of one run's folder; [] if it has none."""
    try:
        table = read_table(folder / 'eval.csv')
        written = json.loads((folder / 'flags.json').read_text())
    except (OSError, ValueError):
        return []
    about = {
        'identity': written['identity'],
        'commit': written['versions'].get('commit'),
        'device': written['machine']['device'],
        'versions': _versions(written),
    }
    names = ('seed', 'phase', 'step', 'success', 'return', 'length', 'seconds')
    return [
        {'method': method, 'task': task} | {name: row[name] for name in names} | about
        for row in table
    ]


def _versions(written: Mapping[str, Mapping[str, str]]) -> str:
    """Returns those that decide a result most: 'jax 0.10.2; mujoco 3.8.1; python 3.11.7'."""
    packages, machine = written['versions'], written['machine']
    found = [(name, packages.get(name)) for name in ('jax', 'mujoco')]
    found.append(('python', machine.get('python')))
    return '; '.join(f'{name} {version}' for name, version in found if version)


def merge(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Puts rows into a file of results, in order; see `newest`.

    Returns:
        How many rows it has now.
    """
    found = newest(read(path), list(rows))

    def place(row: Mapping[str, Any]) -> tuple:
        return row['task'], row['method'], int(row['seed']), row['phase'], int(row['step'])

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    with part.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(sorted(found, key=place))
    part.replace(path)
    return len(found)


def newest(known: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list:
    """Returns the rows known and new ones; of a seed of a method and task that has both, the new.

    Runs of other settings, such as other steps between evaluations, never mix.
    """
    new = {tuple(str(row[name]) for name in KEY) for row in rows}
    return [row for row in known if tuple(str(row[name]) for name in KEY) not in new] + [*rows]


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a file of results; [] if there is no such file.

    Raises:
        UserError: it is not a file of results.
    """
    if not path.exists():
        return []
    rows = [row | {'versions': row.get('versions', '')} for row in read_table(path)]
    if rows and (missing := [name for name in COLUMNS if name not in rows[0]]):
        raise UserError(f'{path}: has no column {missing[0]}; gather makes such files')
    return rows


def by_seed(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str, str], list[Seed]]:
    """Returns the seeds of each method, task and identity."""
    found: dict[tuple[str, str, str], dict[int, Seed]] = {}
    for row in rows:
        seeds = found.setdefault((row['method'], row['task'], row['identity']), {})
        seed = seeds.setdefault(int(row['seed']), Seed(int(row['seed']), {}, {}))
        getattr(seed, row['phase'])[int(row['step'])] = 100 * float(row['success'])
    return {key: [seeds[number] for number in sorted(seeds)] for key, seeds in found.items()}
