"""All processes of a test session share their compiled programs, and the next session has them."""

import os


def pytest_configure(config):
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('jax')))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')
