"""Prints as JSON which flags programs have: python tests/program_flags.py main.py envs.collect

A program is run up to where it would parse them. All run in this process, which is quicker than to
ask each of them for --help.
"""

import argparse
import contextlib
import json
import pathlib
import runpy
import sys
from unittest import mock

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
ARGUMENTS = {'reproduce.py': ['plan']}  # without which a program does not come to its flags


class Reached(Exception):
    """The program would parse its flags now."""


def flags_of(program: str) -> list[str]:
    """Returns the names of the flags of a program or module; those of absl itself are left out."""
    found, before = set(), set(flags.FLAGS)

    def parse(parser, *_):
        found.update(
            name.lstrip('-') for action in parser._actions for name in action.option_strings
        )
        raise Reached

    def run(*_, **__):
        found.update(set(flags.FLAGS) - before)
        raise Reached

    with (
        mock.patch.object(app, 'run', run),
        mock.patch.object(argparse.ArgumentParser, 'parse_args', parse),
        mock.patch.object(sys, 'argv', [program, *ARGUMENTS.get(program, [])]),
        contextlib.suppress(Reached),
    ):
        if program.endswith('.py'):
            runpy.run_path(str(ROOT / program), run_name='__main__')
        else:
            runpy.run_module(program, run_name='__main__', alter_sys=True)
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    return sorted(found)


if __name__ == '__main__':
    sys.path[:0] = [str(ROOT)]
    print(json.dumps({program: flags_of(program) for program in sys.argv[1:]}))
