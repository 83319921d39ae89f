"""Runs a program that receives SIGTERM when its parent process dies.

python -m experiments.with_parent main.py --method=DFP …
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux


def main(arguments: list[str]) -> None:
    parent = os.getppid()
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the call
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == '__main__':
    main(sys.argv[1:])
