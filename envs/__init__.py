"""Environments and offline data, by their usual names.

Importing this package imports no simulator; a suite imports it on first use.
"""

import signal
import sys

# `python -m envs.collect` (or envs.download) loads this package first. Until the program is ready,
# Ctrl-C ends it at once and without a word, as experiments.interruptible has it for the others.
if (
    sys.argv[0] == '-m'
    and {'envs.collect', 'envs.download'} & {*sys.orig_argv}
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not with nohup
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# isort: split
from envs.datasets import Dataset, DatasetError
from envs.registry import (
    check_options,
    find_task,
    load_suite,
    make_dataset,
    make_env,
    register,
    suites,
)
from envs.simulators import Simulators, Start, make_simulators
from envs.suite import Component, Interface, Option, Script, Suite, Task
from envs.workers import SimulatorError

__all__ = [
    'Component',
    'Dataset',
    'DatasetError',
    'Interface',
    'Option',
    'Script',
    'SimulatorError',
    'Simulators',
    'Start',
    'Suite',
    'Task',
    'check_options',
    'find_task',
    'load_suite',
    'make_dataset',
    'make_env',
    'make_simulators',
    'register',
    'suites',
]
