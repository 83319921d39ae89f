"""Programs that answer at once: one process imports what they need, each call is a fork of it.

A call runs the program's own file, as `python <program> <arguments>` in the project's folder does.
A program without .py is a module, as after `python -m`. A start takes more than a second of
imports, a fork takes none. It is for calls that end in an error, in help or in a plan.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Programs:
    """Calls programs, within a `with`; at its end the process that waits for calls ends too."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=os.environ | {'PYTHONPATH': str(ROOT)},
        )  # fmt: skip
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def __call__(self, program, *arguments):
        """Returns what `subprocess.run` would, with standard output and error as text."""
        self._process.stdin.write(json.dumps([program, *arguments]) + '\n')
        self._process.stdin.flush()
        status, output, error = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess([program, *arguments], status, output, error)


def run(arguments):
    """Runs a program in a fork. Returns its status, standard output and standard error."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        child = os.fork()
        if not child:
            for number, file in ((1, output), (2, error)):
                os.dup2(file.fileno(), number)
            sys.argv = arguments
            start = runpy.run_path if arguments[0].endswith('.py') else runpy.run_module
            try:
                start(arguments[0], run_name='__main__')
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 1
            else:
                code = 0
            sys.stdout.flush()
            os._exit(code)  # the interpreter would take as long to end as all the rest
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (output, error):
            file.seek(0)
            texts.append(file.read().decode())
        return [status, *texts]


if __name__ == '__main__':
    for name in ('training', 'experiments.run_flags', 'experiments.engines', 'experiments.slurm'):
        importlib.import_module(name)

    warnings.filterwarnings('ignore', message='os.fork')
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
