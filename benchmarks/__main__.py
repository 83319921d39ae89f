"""Runs all benchmarks and writes their tables as Markdown and JSON.

python -m benchmarks --output=exp/benchmarks
python -m benchmarks --only=update,act
"""

import json
import pathlib
from typing import Any

from absl import app, flags

from benchmarks.common import results_of, table

FLAGS = flags.FLAGS
# Module -> headings of its tables, which are the lists in its JSON.
BENCHMARKS = {
    'update': {
        'paper_size': 'One update at paper size (4 x 512, B = 256)',
        'small_size': 'One update at small size (2 x 128, B = 64)',
    },
    'seeds': {'seeds': 'Seeds trained together, per update of one seed'},
    'act': {'one_action': 'One chunk of actions at paper size, batch 1, from host to host'},
    'latency': {'latency': "A robot's wait for a chunk at paper size, batch 1"},
    'online': {'online': 'The online loop, per environment step of all seeds together'},
    'evaluation': {'evaluation': 'Evaluation of 50 episodes of cube-double'},
    'data': {
        'memory': 'Loading cube-triple (generated)',
        'switching': 'A new shard of cube-quadruple-play-100m (generated) every 1,000 updates',
    },
    'collect': {'collect': 'Scripted collection, cube-double'},
    'precision': {
        'scoring': 'Scoring 256 x 16 proposals at paper size',
        'agreement': 'Choosing the best proposal in bfloat16 and in float32, at states of the data',
    },
    'saving': {'saving': 'One checkpoint at paper size, and the cost of one every 10 minutes'},
    'startup': {'startup': "Start-up of main.py at the quickstart's size"},
}


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Returns the tables of all benchmarks."""
    lines = ['# Costs', '', 'Written by `make bench` (`python -m benchmarks`). Medians. Within a']
    lines += ['table, the things compared took turns in one run.']
    for module in filter(results.get, BENCHMARKS):
        found = results[module]
        commit = found['commit'][:7] + ' with changes' * found['commit'].endswith('-dirty')
        for name, title in BENCHMARKS[module].items():
            lines += ['', f'## {title}', '', table(found[name])]
        lines += [
            '',
            f'`python -m benchmarks.{module}` at {commit}, {found["date"]}, on',
        ]
        lines += ['{device} ({devices}; CPU {cpu}), Python {python}, jax {jax}.'.format(**found)]
    return '\n'.join(lines) + '\n'


def main(_) -> None:
    output = pathlib.Path(FLAGS.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    as_json = output.with_suffix('.json')
    results = json.loads(as_json.read_text('utf-8')) if FLAGS.only and as_json.exists() else {}
    for module in FLAGS.only or BENCHMARKS:
        print(f'\n{module}', flush=True)
        results[module] = results_of(module)
        as_json.write_text(json.dumps(results, indent=2) + '\n', 'utf-8')
        output.with_suffix('.md').write_text(markdown(results), 'utf-8')
    print(f'\nWrote {output.with_suffix(".md")} and {as_json}')


if __name__ == '__main__':
    flags.DEFINE_string('output', 'exp/benchmarks', 'Files to write, without .md and .json.')
    flags.DEFINE_list('only', None, 'Measure only these; keep the other results in the files.')
    app.run(main)
