"""Where experience comes from: environments and offline data, by their usual names.

Importing this imports no simulator; what a suite needs is imported when it is used.
"""

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
from envs.suite import Interface, Option, Part, Script, Suite, Task
from envs.workers import SimulatorError

__all__ = [
    'Dataset',
    'DatasetError',
    'Interface',
    'Option',
    'Part',
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
