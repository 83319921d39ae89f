"""Devices and the compilation cache: set up before JAX starts, and described when it runs."""

import contextlib
import os
import pathlib
import platform
import shlex
import socket
import sys
from typing import Any

import jax

from envs.processes import num_cores
from utils.errors import UserError


def set_up_jax(num_seeds: int, compilation_cache_dir: str | None) -> None:
    """Gives several seeds a CPU device per core, and keeps compiled programs on disk.

    Small networks do not fill all cores of one CPU device. With a device per core, seeds run side
    by side. Accelerators are not affected, nor are the devices of a JAX that is already running.

    Args:
        num_seeds: seeds trained together.
        compilation_cache_dir: of JAX's persistent cache, which makes the next run of the same size
            start faster; None or empty: no cache. If it cannot be written, JAX warns and continues
            without it.
    """
    num_devices = min(num_seeds, num_cores())
    if num_devices > 1:
        with contextlib.suppress(RuntimeError):  # JAX is already running
            jax.config.update('jax_num_cpu_devices', num_devices)
    if compilation_cache_dir:
        path = pathlib.Path(os.path.expandvars(compilation_cache_dir)).expanduser()
        jax.config.update('jax_compilation_cache_dir', str(path))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
        jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


def describe_machine() -> dict[str, str]:
    """Returns host, devices, Python and command line of this process; starts JAX."""
    kinds = [device.device_kind for device in start_jax()]
    if jax.default_backend() == 'cpu':
        kinds = [f'CPU ({platform.machine()}, {num_cores()} cores)']
    counts = [f'{kinds.count(kind)} x {kind}' for kind in dict.fromkeys(kinds)]
    return {
        'device': ', '.join(counts).removeprefix('1 x '),
        'python': platform.python_version(),
        'host': socket.gethostname(),
        'command': shlex.join(sys.argv),
    }


def start_jax() -> list[Any]:
    """Starts JAX if it does not run; returns its devices here.

    Raises:
        UserError: it cannot start on the platform that it was told to use.
    """
    try:
        return jax.local_devices()
    except (AssertionError, RuntimeError) as error:  # of a plugin that is missing, or finds nothing
        raise UserError(
            f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: JAX {jax.__version__} cannot '
            f'start there ({" ".join(str(error).split()) or "its plugin is not installed"}); '
            f'install that, such as "jax[cuda13]=={jax.__version__}", or set JAX_PLATFORMS=cpu'
        ) from error


def device_memory() -> dict[str, float]:
    """Returns the peak memory of any device so far, in GiB; {} if JAX does not report it."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [found['peak_bytes_in_use'] for found in stats if found]
    return {'device_memory_gib': max(peaks) / 2**30} if peaks else {}
