"""Runs all benchmarks and writes their tables as Markdown and JSON.

python -m benchmarks --output=exp/benchmarks
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

from benchmarks.common import machine, table

FLAGS = flags.FLAGS
# Module, and what its tables (the lists in its JSON) are called.
BENCHMARKS = {
    'update': {
        'paper_size': 'One update at paper size (4 x 512, B = 256), against its arithmetic floor',
        'small_size': 'One update at small size (2 x 128, B = 64), fused against one dispatch each',
    },
    'seeds': {'seeds': 'Seeds trained together, per update of one seed'},
    'act': {'one_action': 'One chunk of actions at paper size, batch 1, from host to host'},
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
    'startup': {'startup': 'Start of main.py at the size of the quickstart'},
}


def main(_):
    output = pathlib.Path(FLAGS.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    description = machine()
    results = {'machine': description}
    lines = ['# What it costs', '', 'Written by `make bench` (`python -m benchmarks`) on', '']
    lines += [f'- {name}: {value}' for name, value in description.items()]
    lines += ['', 'Medians; every table is of one run, in which what is compared took turns.']
    for module in FLAGS.only or BENCHMARKS:
        print(f'\n{module}', flush=True)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / 'results.json'
            command = [sys.executable, '-m', f'benchmarks.{module}', f'--json={path}']
            subprocess.run(command, check=True)
            found = json.loads(path.read_text())
        for name, title in BENCHMARKS[module].items():
            results[name] = found[name]
            lines += ['', f'## {title}', '', f'`python -m benchmarks.{module}`', '']
            lines += [table(found[name])]
        output.with_suffix('.md').write_text('\n'.join(lines) + '\n')
        output.with_suffix('.json').write_text(json.dumps(results, indent=2) + '\n')
    print(f'\nWrote {output.with_suffix(".md")} and {output.with_suffix(".json")}')


if __name__ == '__main__':
    flags.DEFINE_string('output', 'exp/benchmarks', 'Files to write, less .md and .json.')
    flags.DEFINE_list('only', None, 'Some of the benchmarks.')
    app.run(main)
