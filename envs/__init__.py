"""Environments and offline data, by their usual names.

Importing this package imports no simulator; a suite imports it on first use.
"""

# ruff: noqa: F401  (the public names)
from envs.datasets import Dataset
from envs.npz import DatasetError
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
from envs.suite import Component, Interface, Option, ScriptedPolicy, Suite, Task
from envs.workers import SimulatorError
