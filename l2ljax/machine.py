"""The machine around a run: the user's cache folder, compiled programs, versions, hardware."""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import subprocess

import jax


def cache_folder(name: str) -> pathlib.Path:
    """A folder of ours in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "l2ljax" / name


def prepare(compilation_cache: str) -> None:
    """What every command does before its first computation: keep memory, keep compiled programs.

    It changes settings of the whole process, so a library function never calls it.
    """
    _keep_memory()
    _keep_programs(compilation_cache)


MALLOPT = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_THRESHOLD": (-3, 2**31 - 1),
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
}
"""glibc's mallopt parameters (malloc.h) and our values; only the one main arena passes 64 MB."""


def _keep_memory() -> None:
    """Let glibc keep what is freed, because XLA's CPU client allocates a step's temporaries anew.

    Above 32 MB glibc maps and unmaps them, and every page is faulted in again: that is a third of
    the time of a Naive L2L step on digits (benchmarks/step_cost.py). Without glibc this does
    nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOPT.values():
            mallopt(parameter, value)


def _keep_programs(folder: str) -> None:
    # "user" is our folder in the user's cache, unless JAX was told of another; empty is none.
    if folder == "user" and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = None if not folder else str(cache_folder("compiled") if folder == "user" else folder)
    jax.config.update("jax_compilation_cache_dir", path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def describe() -> dict[str, str]:
    """Versions, device and commit: what a number was measured with."""
    packages = ("l2ljax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: _version(name) for name in packages}
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else _processor()
    return {
        **versions,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {kind}",
        "cores": str(os.cpu_count()),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0]})" if names else platform.machine()


def _commit() -> str:
    here = pathlib.Path(__file__).parent
    mark = "--dirty= and changes not committed"
    command = ["git", "-C", str(here), "describe", "--always", mark, "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def have(package: str) -> bool:
    """Whether that package is installed."""
    return importlib.util.find_spec(package) is not None


def _version(package: str) -> str:
    """A package may be used from its sources, without an installation."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
