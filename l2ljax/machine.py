"""The machine around a run: cache folder, compiled programs, versions, hardware, and time.

A `Trace` of some steps shows where their time went; TensorBoard can show it too:

    trace = Trace(workdir / "profile")
    trace.start()
    state, metrics = program(state, *arguments)
    jax.block_until_ready(state)
    trace.stop()
    print(trace.page(program))

The table says in whose network an operation is (the names of the Flax modules are in the compiled
program's metadata) and what kind of operation it is. Times of threads that work at once add up, so
that shares are of busy time. View the trace itself with `tensorboard --logdir=WORKDIR/profile`.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import subprocess
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from l2ljax.models import ATTACKERS, MODELS, CoordinateLSTM
from l2ljax.terminal import Progress, align


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
    # Small programs too: a run has a hundred, and reading one takes a third of compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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


STEPS = 10
"""How many steps are traced; more if one call of the program makes more."""

WARM = 2
"""How many calls are made before it: the first compiles, the second still fills pipelines."""

WHAT = {
    "convolution": r"conv",
    "matrix product": r"dot|gemm|matmul",
    "collective": r"all-reduce|all-gather|reduce-scatter|collective|nccl|all_reduce",
    "copy": r"copy|transpose|memcpy",
}
"""The kinds of operations, by a pattern in the name or the JAX function it came from."""


class Spent(NamedTuple):
    """Nanoseconds of one operation on one line of the trace, from `start` on."""

    op: str
    start: float
    duration: float
    line: str


class Profiler:
    """Traces a loop's first STEPS steps after the WARM ones, and says where their time went."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._trace, self._calls, self._left = Trace(folder), 0, STEPS

    def before(self, state: Any) -> None:
        """Call this before a call of the program."""
        if self._calls == WARM:
            jax.block_until_ready(state)
            self._trace.start()
        self._calls += 1

    def after(self, steps: int, state: Any, program: Any, progress: Progress) -> None:
        """Call this after it, with the steps it made; `progress` is told the table at the end."""
        if self._calls <= WARM or self._left <= 0:
            return
        self._left -= steps
        if self._left <= 0:
            jax.block_until_ready(state)
            self._trace.stop()
            progress.say(self._trace.page(program))
            progress.say(f"trace of the steps: tensorboard --logdir={self._trace.folder}")

    def close(self) -> None:
        """Call this where the loop ends, perhaps before all steps were traced."""
        if self._calls > WARM and self._left > 0:
            self._trace.stop()


class Trace:
    """The operations between `start` and `stop`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.events: list[Spent] = []

    def start(self) -> None:
        """Record from here on."""
        jax.profiler.start_trace(str(self.folder))

    def stop(self) -> None:
        """Record no more, and read what was recorded."""
        jax.profiler.stop_trace()
        newest = max(self.folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        with warnings.catch_warnings():
            # JAX 0.12 warns when it first makes the type of an event's facts. Where warnings are
            # errors, native code cannot pass that one on, and the process would be aborted.
            warnings.filterwarnings("ignore", ".*has no __module__ attribute", DeprecationWarning)
            self.events = list(_operations(jax.profiler.ProfileData.from_file(str(newest))))

    def page(self, program: Any) -> str:
        """The table for a person; the compiled program tells whose an operation is."""
        lines = [("whose", "what", "share")]
        lines += [(*key, f"{100 * share:5.1f} %") for key, share in self.shares(program).items()]
        return f"{align(lines)}\nbusy {100 * self.busy():.1f} % of the traced time"

    def shares(self, program: Any) -> dict[tuple[str, str], float]:
        """(whose, what) -> share of busy time, the largest first."""
        origin = origins(program.as_text()) if hasattr(program, "as_text") else {}
        total: dict[tuple[str, str], float] = {}
        for event in self.events:
            source = origin.get(event.op, "")
            key = whose(source), what(event.op, source)
            total[key] = total.get(key, 0.0) + event.duration
        everything = sum(total.values()) or 1.0
        ordered = sorted(total.items(), key=lambda item: -item[1])
        return {key: spent / everything for key, spent in ordered}

    def busy(self) -> float:
        """The share of the time from the first operation to the last in which one ran."""
        spans = sorted((event.start, event.start + event.duration) for event in self.events)
        if not spans:
            return 0.0
        covered, reached = 0.0, spans[0][0]
        for start, end in spans:
            covered += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return covered / max(reached - spans[0][0], 1.0)


def _operations(data: Any) -> Iterable[Spent]:
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if not event.duration_ns:
                    continue
                op = dict(event.stats).get("hlo_op")
                if op is not None:
                    place = f"{plane.name} {line.name}"
                    yield Spent(str(op), event.start_ns, event.duration_ns, place)


def origins(hlo: str) -> dict[str, str]:
    """Operation -> the path of JAX functions and Flax modules it came from, out of an HLO text."""
    pattern = r"^\s*(?:ROOT )?%?([\w.-]+) = .*?metadata=\{[^}]*?op_name=\"([^\"]*)\""
    return dict(re.findall(pattern, hlo, flags=re.MULTILINE))


def whose(source: str) -> str:
    """The player in whose module an operation is."""
    for player, modules in PLAYERS.items():
        if re.search(rf"\b({modules})\b", source):
            return player
    return "the rest"


PLAYERS = {
    "attacker": "|".join(cls.__name__ for cls in (*ATTACKERS.values(), CoordinateLSTM)),
    "classifier": "|".join(cls.__name__ for cls in MODELS.values()),
}
"""The names of their modules."""


def what(op: str, source: str) -> str:
    """The kind of an operation."""
    for kind, pattern in WHAT.items():
        if re.search(pattern, f"{op} {source.rpartition('/')[2]}".lower()):
            return kind
    return "other"
