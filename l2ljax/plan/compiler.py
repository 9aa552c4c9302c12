"""A program compiled for a machine that is not here.

    devices = devices_of(machine)               # InputError: pip install 'l2ljax[plan-tpu]'
    layout = lay_out(None, batch_size=512, devices=devices)
    built = build(layout.lower(body, *layout.shapes(arguments)), machine)
    built.memory.temporaries, built.text

XLA's compilers for TPU and GPU come with libtpu and with JAX's plug-in for CUDA. Neither needs a
device to compile. Where the compiler is not installed, a program can still be lowered: then its
text is what JAX gave to XLA, not yet optimised, and only its products can be counted.
"""

import importlib.util
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from l2ljax.devices import compiling_for
from l2ljax.errors import InputError
from l2ljax.plan.machines import Gpu, Machine

EXTRAS = {"tpu": ("plan-tpu", ("libtpu",)), "gpu": ("plan-cuda", ("jax_cuda12_plugin",))}
"""By platform the extra of the package that brings the compiler, and what it installs."""


class Memory(NamedTuple):
    """Bytes of a device."""

    arguments: int
    results: int
    """Of the results, those that do not take the place of an argument."""
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """What the program needs while it runs."""
        return sum(self)


class Built(NamedTuple):
    """A program as XLA made it for one device of a machine."""

    text: str
    compiled: bool
    """False: the compiler is not installed, and the text is what XLA would have been given."""
    memory: Memory
    xla_seconds: float | None
    """XLA's own estimate of the time of a call, where it gives one that can be."""
    compile_seconds: float


def missing_extra(machine: Machine) -> str | None:
    """The line that says how to get the compiler for a machine; None where it is here."""
    extra, packages = EXTRAS[machine.chip.platform]
    if machine.chip.platform == "gpu" and machine.chip.gpu is None:
        return f"XLA compiles for no {machine.name}: counted before it is optimised"
    if all(importlib.util.find_spec(name) for name in packages):
        return None
    return (
        f"no compiler for {machine.name} is installed (pip install 'l2ljax[{extra}]'): "
        "FLOPs and arguments are counted before XLA optimises, and temporaries are not known"
    )


def devices_of(machine: Machine) -> tuple[Any, ...]:
    """The devices of a machine as its compiler names them; none where it is not installed."""
    if missing_extra(machine):
        return ()
    try:
        if machine.chip.gpu is not None:
            found = topologies.get_topology_desc(
                platform="cuda",
                target_config=_target(machine.chip.gpu, machine),
                topology=machine.topology,
            )
        else:
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=machine.topology, **_tpu_options(machine)
            )
    except NotImplementedError as error:  # the plug-in looked for a GPU, and took itself out
        raise InputError(
            f"{machine.name}: where no GPU is, set JAX_PLATFORMS=cpu before JAX is imported"
        ) from error
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(f"--machine={machine.name}: its compiler refuses it: {said}") from error
    return tuple(found.devices)


def _tpu_options(machine: Machine) -> dict[str, Any]:
    # A v4 chip is one device of two cores, and a slice of one chip is no whole host of four.
    options: dict[str, Any] = {}
    if machine.name.startswith("v4-"):
        options["chip_config_name"] = "megacore"
    if machine.devices == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    return options


def _target(gpu: Gpu, machine: Machine) -> str:
    """XLA's GpuTargetConfigProto as text; the sizes are those of every GPU since Volta."""
    major, minor = gpu.capability
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_memory}
  shared_memory_per_block_optin: {gpu.shared_memory - 1024}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(machine.chip.bandwidth)}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {int(machine.chip.memory)}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


@contextmanager
def traced_for(machine: Machine) -> Iterator[None]:
    """Inside, programs are traced as the machine's platform gets them."""
    with compiling_for(machine.chip.platform):
        yield


EFFORTS = {"full": {}, "quick": {"exec_time_optimization_effort": -1.0}}
"""What XLA is told of how long it may optimise for a fast program; -1 is its least."""


def build(lowered: Any, machine: Machine, effort: str) -> Built:
    """The program for one device, and what XLA says of its memory."""
    if missing_extra(machine):
        text = lowered.as_text(dialect="hlo")
        sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(lowered.in_avals)]
        return Built(text, False, Memory(sum(sizes), 0, 0, 0), None, 0.0)
    began = time.perf_counter()
    with warnings.catch_warnings():
        # JAX's cache of programs cannot read those of a machine that is not here, and says so.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
        compiled = lowered.compile(EFFORTS[effort])
    took = time.perf_counter() - began
    stats = compiled.memory_analysis()
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    cost = compiled.cost_analysis() or {}
    guess = cost.get("optimal_seconds", 0.0)
    return Built(compiled.as_text(), True, memory, guess if guess > 0 else None, took)
