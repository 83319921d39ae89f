"""Collects data with a suite's scripted policy.

    python -m envs.collect --env_name=cube-double-play-v0 --num_episodes=1000 --num_workers=2

The same seed gives the same bytes with any number of workers.
"""

from pathlib import Path
from typing import Any

from absl import flags

from envs.collection import collect
from envs.programs import run
from envs.registry import find_collection

FLAGS = flags.FLAGS
NUMBERS = ('num_episodes', 'num_workers', 'seed', 'num_shards', 'num_val_episodes')


def main() -> None:
    """The program."""
    suite = find_collection(FLAGS.env_name, FLAGS.suite)
    save_dir = Path(FLAGS.save_dir or suite.dataset_dir).expanduser()
    numbers: dict[str, Any] = {name: FLAGS[name].value for name in NUMBERS}
    for path in collect(suite, FLAGS.env_name, save_dir=save_dir, **numbers):
        print(path)


if __name__ == '__main__':
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text('env_name', None, 'Data to imitate, such as cube-double-play-v0.', required=True)
    text('suite', None, 'Your own suite, as module:attribute.')
    number('num_episodes', None, 'Training episodes (cubes: of 1000 transitions).', 1)
    number('num_workers', None, 'Processes; default: one per core.', 1)
    number('seed', 0, 'Seed of the whole collection.', 0)
    text('save_dir', None, "Folder for the files; default: the suite's directory.")
    number('num_shards', 1, 'Number of training files.', 1)
    number('num_val_episodes', None, 'Validation episodes; default: a tenth.', 0)
    flags.mark_flag_as_required('num_episodes')
    run(main, 'Interrupted: nothing was saved, unfinished files are removed.')
