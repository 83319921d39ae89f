"""Runs all benchmarks and writes their tables as Markdown and JSON.

python -m benchmarks --output=exp/benchmarks
python -m benchmarks --only=update,seeds
"""

import json
import pathlib
from typing import Any

from absl import app, flags

from benchmarks.common import results_of, table

FLAGS = flags.FLAGS
TITLES = {  # heading of each table, by module and the table's name
    ('update', 'paper_size'): 'One update at paper size (4 x 512, B = 256)',
    ('update', 'small_size'): 'One update at small size (2 x 128, B = 64)',
    ('seeds', 'seeds'): 'Seeds trained together, per update of one seed',
    ('latency', 'latency'): "A robot's wait for a chunk at paper size, batch 1",
    ('online', 'online'): 'The online loop, per environment step of all seeds together',
    ('evaluation', 'evaluation'): 'Evaluation of 50 episodes of cube-double',
}


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Returns the tables of all benchmarks."""
    lines = ['# Costs', '', 'Written by `make bench` (`python -m benchmarks`). Medians. Within a']
    lines += ['table, the things compared took turns in one run.']
    for (module, name), title in TITLES.items():
        if found := results.get(module):
            commit = found['commit'][:7] + ' with changes' * found['commit'].endswith('-dirty')
            lines += ['', f'## {title}', '', table(found[name]), '']
            lines += [f'`python -m benchmarks.{module}` at {commit}, {found["date"]}, on']
            lines += [
                '{device} ({devices}; CPU {cpu}), Python {python}, jax {jax}.'.format(**found)
            ]
    return '\n'.join(lines) + '\n'


def main(_) -> None:
    output = pathlib.Path(FLAGS.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    as_json = output.with_suffix('.json')
    results = json.loads(as_json.read_text('utf-8')) if FLAGS.only and as_json.exists() else {}
    for module in FLAGS.only or dict.fromkeys(module for module, _ in TITLES):
        print(f'\n{module}', flush=True)
        results[module] = results_of(module)
        as_json.write_text(json.dumps(results, indent=2) + '\n', 'utf-8')
        output.with_suffix('.md').write_text(markdown(results), 'utf-8')
    print(f'\nWrote {output.with_suffix(".md")} and {as_json}')


if __name__ == '__main__':
    flags.DEFINE_string('output', 'exp/benchmarks', 'Files to write, without .md and .json.')
    flags.DEFINE_list('only', None, 'Measure only these; keep the other results in the files.')
    app.run(main)
