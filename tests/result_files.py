"""Files of results that tests write by hand."""

import csv
import json

import pandas as pd

from reports import runs

ROWS = [
    ('offline', 0, 0, 0.1), ('offline', 0, 1, 0.0), ('offline', 5, 0, 0.2), ('offline', 5, 1, 0.4),
    ('online', 0, 0, 0.2), ('online', 0, 1, 0.4), ('online', 7, 0, 0.9), ('online', 7, 1, 0.7),
]  # fmt: skip


def write_run(folder, rows=ROWS, score='success', status='done', data='', method='DFP'):
    """Writes what a run on cube-double leaves behind; returns its folder."""
    folder.mkdir(parents=True)
    with (folder / 'eval.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('phase', 'step', 'seed', score), *rows])
    (folder / 'status.json').write_text(json.dumps({'status': status}))
    written = {
        'flags': {'env_name': 'cube-double', 'method': method}, 'agent': {'agent_name': 'dfp'},
        'identity': 'aaaaaaaa', 'data': {'fingerprint': data},
        'versions': {'jax': '1.2', 'mujoco': None, 'commit': '123'},
        'machine': {'device': 'a machine', 'python': '3.11'},
    }  # fmt: skip
    (folder / 'flags.json').write_text(json.dumps(written))
    return folder


def seeds_from(first, rows=ROWS):
    return [(phase, step, seed + first, score) for phase, step, seed, score in rows]


def long_table(rows, path):
    """Writes wide rows as a file of gathered results; returns the table read from it."""
    pd.DataFrame(rows).to_csv(path, index=False)
    return runs.read_results(path)
