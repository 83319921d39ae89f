"""Converts an exported policy to LeRobot's format.

python -m lerobot_policy_dfp policy/ policy_lerobot/
"""

import argparse
import shutil
from pathlib import Path

from lerobot_policy_dfp import DFPPolicy, make_dfp_pre_post_processors


def convert(folder: Path, output: Path) -> None:
    """Converts `folder`, the output of `export.py --formats=onnx`, to `output`."""
    policy = DFPPolicy.from_export(folder)
    policy.save_pretrained(output)
    for pipeline in make_dfp_pre_post_processors(policy.config):
        pipeline.save_pretrained(output)
    shutil.copy(folder / 'policy.json', output)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='python -m lerobot_policy_dfp', description=__doc__)
    parser.add_argument('folder', type=Path, help='the output of export.py --formats=onnx')
    parser.add_argument('output', type=Path, help='folder to write, for --policy.path')
    arguments = parser.parse_args()
    try:
        convert(arguments.folder, arguments.output)
    except OSError as error:
        parser.exit(1, f'{error}\n')
