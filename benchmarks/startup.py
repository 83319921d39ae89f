"""Measures the time from starting main.py to its first update, at the quickstart's size.

    python -m benchmarks.startup

Cold: no compiled programs on disk; warm: the previous run left them there. Needs the quickstart's
data, and collects it otherwise.
"""

import re
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks.common import print_table, run, save

FLAGS = flags.FLAGS


def first_update(cache: str, save_dir: str) -> float:
    """Returns the seconds until the progress bar shows an update."""
    command = [
        sys.executable,
        'main.py',
        '--flagfile=experiments/quickstart.flags',
        f'--compilation_cache_dir={cache}',
        f'--save_dir={save_dir}',
        '--offline_steps=1',
        '--online_steps=0',
        '--eval_episodes=2',
    ]
    start = time.perf_counter()
    seen, took = '', None
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while piece := process.stderr.read1():
            seen += piece.decode(errors='replace')
            if took is None and re.search(r'offline:[^\r]* 1/1 ', seen):
                took = time.perf_counter() - start
    if took is None:
        raise RuntimeError(f'main.py made no update: {seen[-1000:]}')
    return took


def main(_) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for i, state in enumerate(('cold', 'warm', 'warm')):
            took = first_update(f'{directory}/cache', f'{directory}/exp-{i}')
            rows.append({'compilations': state, 'seconds to the first update': took})
    print_table(rows)
    save(FLAGS.json, {'startup': rows})


if __name__ == '__main__':
    run(main)
