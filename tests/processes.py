"""Python in processes of its own, where the project's and the tests' modules can be imported."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}


def run_python(*arguments, env=None, **options):
    """Runs Python, by default from the root; returns what `subprocess.run` does, with the text."""
    options = {'cwd': ROOT, 'capture_output': True, 'text': True} | options
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | PATHS | (env or {}), **options
    )
