"""Tests spend most of their time in compilation: here it is made cheap.

All processes of a session share their compiled programs, and the next session has them. LLVM does
not optimise, and XLA emits fusions in its older, faster way. It makes code in one part, because
another core would be taken from other tests. Programs mean the same, and compile in half the time.
"""

import gc
import os

import pytest
from programs import Programs

XLA_FLAGS = (
    '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_parallel_codegen_split_count=1'
)


def pytest_configure(config):
    gc.set_threshold(10_000, 10, 10)
    os.environ.setdefault('XLA_FLAGS', XLA_FLAGS)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('jax')))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')


@pytest.fixture(autouse=True, scope='module')
def quick_garbage_collection():
    """Leaves out what other modules hold: all of it takes seconds, at each reset of robosuite."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def programs():
    """Calls programs for little: `programs('main.py', '--help')`."""
    with Programs() as call:
        yield call
