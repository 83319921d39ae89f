"""Compiled programs are kept on disk, so that the next run of the same size starts at once."""

import os
import pathlib

import jax


def keep_compilations(directory: str) -> None:
    """Turns JAX's persistent compilation cache on, in `directory`; empty: off.

    A directory that cannot be written costs a warning of JAX's and nothing else.
    """
    if not directory:
        return
    path = pathlib.Path(os.path.expandvars(directory)).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
