"""Tests spend most of their time in compilation: here it is made cheap.

All processes of a session share their compiled programs, and the next session has them. LLVM does
not optimise, and XLA emits fusions in its older, faster way. It makes code in one part, because
another core would be taken from other tests. Programs mean the same, and compile in half the time.
"""

import gc
import os
import pathlib
import sys

import pytest

XLA_FLAGS = (
    '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_parallel_codegen_split_count=1'
)


def pytest_addoption(parser):
    parser.addoption('--kills', type=int, default=2, help='Random strikes of tests/test_kill.py.')


MANY_MAPS = 25_000  # of the 65,530 that Linux allows; more end the process


def pytest_configure(config):
    gc.set_threshold(10_000, 10, 10)  # garbage takes 17 s of all tests so, 45 s by default
    os.environ.setdefault('XLA_FLAGS', XLA_FLAGS)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('jax')))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')


def num_memory_maps() -> int:
    """The memory maps of this process, some 17 for each program; 0 where nobody tells."""
    maps = pathlib.Path('/proc/self/maps')
    return len(maps.read_text().splitlines()) if maps.exists() else 0


@pytest.fixture(autouse=True, scope='module')
def quick_garbage_collection():
    """Makes garbage collection skip the objects of earlier test modules.

    Looking through all of it takes seconds, and robosuite asks for that at each reset. Programs
    that were compiled are let go before they take all of the memory maps that Linux allows.
    """
    if num_memory_maps() > MANY_MAPS:
        sys.modules['jax'].clear_caches()
        gc.unfreeze()
    gc.collect()
    gc.freeze()
