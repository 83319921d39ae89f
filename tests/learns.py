"""Checks that the quickstart learns: `make learns`, 8 minutes and two cores."""

import sys
import tempfile

from experiments.run_flags import parse
from training import train

NEEDED = 0.7  # success at the end


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = [f'--save_dir={folder}/exp', f'--ogbench_dataset_dir={folder}/data']
        flags = ['main.py', '--flagfile=experiments/quickstart.flags', *place, *sys.argv[1:]]
        result = train(parse(flags))
        print((result.directory / 'eval.csv').read_text())
    success = min(score['success'] for score in result.scores)
    if success < NEEDED:
        sys.exit(f'The quickstart ended at {success:.0%}; it must reach {NEEDED:.0%}')
    print(f'The quickstart ended at {success:.0%}')


if __name__ == '__main__':
    main()
