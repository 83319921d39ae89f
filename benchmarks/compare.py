"""Compares two checkouts of the project in one benchmark.

    python -m benchmarks.compare --other=../before update -- --methods=DFP,QC-FQL --repeats=3

Runs the benchmark in this checkout (A) and in the other (B) as separate processes in the order A B
B A A B …, with the same Python and the flags after `--`. For each number in the tables of both it
prints the ratio of the medians, this over other, and the lowest and highest ratio among
neighbouring pairs. With equal checkouts, all n ratios of a number fall on the same side of 1 with
probability 1 / 2^(n-1), so a single deviation among many numbers says little.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.common import print_table, results_of, run, save

FLAGS = flags.FLAGS
Key = tuple[str, str, str]  # table, row, column
Results = dict[str, Any]


def numbers(results: Results, others: Results) -> Iterator[tuple[Key, float]]:
    """Yields the measured numbers of the tables that both have.

    A row is identified by its cells that are not measured (text and counts) in common columns.
    """
    for table, rows in results.items():
        if not isinstance(rows, list) or table not in others:
            continue
        shared = [column for column in rows[0] if column in others[table][0]]
        for row in rows:
            label = ' '.join(str(row[name]) for name in shared if not isinstance(row[name], float))
            for column in shared:
                if isinstance(row[column], float):
                    yield (table, label, column), row[column]


def in_turns(module: str, arguments: list[str], repeats: int) -> list[tuple[Results, Results]]:
    """Returns neighbouring pairs of results, this checkout's first."""
    pairs = []
    for repeat in range(repeats):
        checkouts = [None, FLAGS.other]
        if repeat % 2:
            checkouts.reverse()
        found = {}
        for checkout in checkouts:
            print(f'\n{checkout or "This checkout"}', flush=True)
            found[checkout] = results_of(module, arguments, checkout)
        pairs.append((found[None], found[FLAGS.other]))
    return pairs


def ratios(pairs: list[tuple[Results, Results]]) -> list[dict[str, Any]]:
    """Returns a row per number that all results have."""
    ours = [dict(numbers(this, other)) for this, other in pairs]
    theirs = [dict(numbers(other, this)) for this, other in pairs]
    rows = []
    for key in ours[0]:
        if not all(found.get(key) for found in [*ours, *theirs]):
            continue
        a, b = (np.array([found[key] for found in side]) for side in (ours, theirs))
        rows.append(
            dict(zip(('table', 'row', 'column'), key, strict=True))
            | {
                'this': float(np.median(a)),
                'other': float(np.median(b)),
                'this / other': float(np.median(a) / np.median(b)),
                'lowest': float((a / b).min()),
                'highest': float((a / b).max()),
            }
        )
    return rows


def main(argv: list[str]) -> None:
    if len(argv) < 2 or not (pathlib.Path(FLAGS.other) / 'benchmarks' / f'{argv[1]}.py').is_file():
        raise app.UsageError(
            f'--other={FLAGS.other} {" ".join(argv[1:])}: name a checkout, and a benchmark in it'
        )
    pairs = in_turns(argv[1], argv[2:], FLAGS.repeats)
    rows = ratios(pairs)
    print()
    print_table(rows)
    commits = {'this': pairs[0][0]['commit'], 'other': pairs[0][1]['commit']}
    print(json.dumps(commits))
    save(FLAGS.json, {'compare': rows, 'commits': commits})


if __name__ == '__main__':
    flags.DEFINE_string('other', None, 'Folder of the other checkout.', required=True)
    flags.DEFINE_integer('repeats', 4, 'Runs of each; use an even number.', lower_bound=1)
    run(main)
