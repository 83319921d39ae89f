"""Compares two checkouts of the project in one benchmark.

    python -m benchmarks.compare --other=../before update -- --methods=DFP,QC-FQL --repeats=3

Runs the benchmark in this checkout (A) and in the other (B) as separate processes in the order A B
B A A B …, with the same Python and the flags after `--`. For each number in the tables of both it
prints the ratio of the medians, this over other, and the lowest and highest ratio among
neighbouring pairs. With equal checkouts, all n ratios of a number fall on the same side of 1 with
probability 1 / 2^(n-1), so a single deviation among many numbers says little.
"""

import pathlib
from typing import Any

import pandas as pd
from absl import app, flags

from benchmarks.common import Tables, results_of, run

FLAGS = flags.FLAGS


def numbers(results: dict[str, Any]) -> pd.Series:
    """Returns the measured numbers by table, row and column.

    A row is identified by its cells that are not measured: text and counts.
    """
    found = {}
    for table, rows in results.items():
        for row in rows if isinstance(rows, list) else []:
            label = ' '.join(str(x) for x in row.values() if not isinstance(x, float))
            measured = {column: x for column, x in row.items() if isinstance(x, float)}
            found |= {(table, label, column): x for column, x in measured.items()}
    return pd.Series(found)


def ratios(these: pd.DataFrame, others: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns a row per number that all results have; a column of each is one run."""
    ratio = (these / others).dropna()
    medians = [each.loc[ratio.index].median(axis=1) for each in (these, others)]
    columns = [*medians, medians[0] / medians[1], ratio.min(axis=1), ratio.max(axis=1)]
    names = ('this', 'other', 'this / other', 'lowest', 'highest')
    found = pd.DataFrame(dict(zip(names, columns, strict=True)))
    return found.rename_axis(['table', 'row', 'column']).reset_index().to_dict('records')


def main(argv: list[str]) -> Tables:
    if len(argv) < 2 or not (pathlib.Path(FLAGS.other) / 'benchmarks' / f'{argv[1]}.py').is_file():
        raise app.UsageError(
            f'--other={FLAGS.other} {" ".join(argv[1:])}: name a checkout, and a benchmark in it'
        )
    found = {None: [], FLAGS.other: []}
    for repeat in range(FLAGS.repeats):
        for checkout in [*found][:: -1 if repeat % 2 else 1]:
            print(f'\n{checkout or "This checkout"}', flush=True)
            found[checkout].append(results_of(argv[1], argv[2:], checkout))
    print({checkout or 'this': each[0]['commit'] for checkout, each in found.items()})
    these, others = (pd.concat(map(numbers, each), axis=1) for each in found.values())
    return {'compare': ratios(these, others)}


if __name__ == '__main__':
    flags.DEFINE_string('other', None, 'Folder of the other checkout.', required=True)
    flags.DEFINE_integer('repeats', 4, 'Runs of each; use an even number.', lower_bound=1)
    run(main)
