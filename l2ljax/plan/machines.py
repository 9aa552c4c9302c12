"""The machines that a run can be planned for, with their published peaks.

    machine = find("v5e-256")       # or h100, h100x8
    machine.chip.memory, machine.devices, machine.topology

A TPU slice is named by its chips (Google names those of v4 and v5p by two cores a chip); a host of
GPUs by how many it has. One line of CHIPS adds a chip, and every size of its machines with it.

Peaks are the makers' own, of dense products. They come from the pages v4, v5e, v5p and v6e of
cloud.google.com/tpu/docs, and from NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM,
HGX B200, GTX 1080 Ti and Tesla P100 PCIe.
"""

import re
from typing import Literal, NamedTuple

from l2ljax.errors import InputError, nearest


class Gpu(NamedTuple):
    """What XLA must know of a GPU to compile for it."""

    name: str
    capability: tuple[int, int]
    cores: int
    shared_memory: int
    """Bytes of a core."""
    cache: int
    """Bytes of the second level."""
    clock: float
    """GHz."""


class Chip(NamedTuple):
    """One device, with its peaks per second; a product in another precision has another one."""

    platform: Literal["tpu", "gpu"]
    memory: float
    """Bytes."""
    bf16: float
    f32: float
    """A product of float32 arrays as JAX makes it unless told otherwise: of one pass in bfloat16 on
    a TPU, in TF32 on a GPU that has it."""
    f32_highest: float
    """One in true float32: six passes in bfloat16 on a TPU."""
    bandwidth: float
    """Bytes between the device's memory and its cores."""
    link: float
    """Bytes that a device sends to the others."""
    gpu: Gpu | None = None

    def peak(self, precision: str) -> float:
        """FLOPs a second of a product in that precision."""
        peaks = {"bf16": self.bf16, "f32": self.f32, "f32-highest": self.f32_highest}
        return peaks.get(precision, self.f32_highest)


def _tpu(memory: float, bf16: float, bandwidth: float, link: float) -> Chip:
    # `link` is half of the bidirectional bandwidth that Google prints.
    return Chip("tpu", memory, bf16, bf16, bf16 / 6, bandwidth, link)


GB, T = 1e9, 1e12

CHIPS = {
    "v4": _tpu(32 * GB, 275 * T, 1200 * GB, 150 * GB),
    "v5e": _tpu(16 * GB, 197 * T, 819 * GB, 200 * GB),
    "v5p": _tpu(95 * GB, 459 * T, 2765 * GB, 600 * GB),
    "v6e": _tpu(32 * GB, 918 * T, 1638 * GB, 400 * GB),
    "a100": Chip(
        *("gpu", 80 * GB, 312 * T, 156 * T, 19.5 * T, 2039 * GB, 300 * GB),
        Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 167936, 41943040, 1.41),
    ),
    "h100": Chip(
        *("gpu", 80 * GB, 989.5 * T, 494.7 * T, 66.9 * T, 3350 * GB, 450 * GB),
        Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 233472, 52428800, 1.98),
    ),
    "h200": Chip(
        *("gpu", 141 * GB, 989.5 * T, 494.7 * T, 66.9 * T, 4800 * GB, 450 * GB),
        Gpu("NVIDIA H200", (9, 0), 132, 233472, 52428800, 1.98),
    ),
    "b200": Chip(
        *("gpu", 180 * GB, 2250 * T, 1125 * T, 75 * T, 7700 * GB, 900 * GB),
        Gpu("NVIDIA B200", (10, 0), 148, 233472, 132644864, 1.965),
    ),
    # For the check of the roofline against published times alone: XLA compiles for neither.
    "gtx1080ti": Chip("gpu", 11 * GB, 11.3 * T, 11.3 * T, 11.3 * T, 484 * GB, 16 * GB),
    "p100": Chip("gpu", 16 * GB, 9.3 * T, 9.3 * T, 9.3 * T, 732 * GB, 16 * GB),
}

TORI = {
    **{1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
}
"""The shapes of v5e and v6e slices by their chips (cloud.google.com/tpu/docs/v5e)."""

CUBES = {
    **{1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
    **{128: "4x4x8", 256: "4x8x8", 512: "8x8x8"},
}
"""The shapes of v4 and v5p slices by their chips (cloud.google.com/tpu/docs/v5p)."""

GPUS = (1, 2, 4, 8)
"""How many GPUs a host may have."""


class Machine(NamedTuple):
    """So many chips of a kind, as one run uses them."""

    name: str
    chip: Chip
    devices: int

    @property
    def topology(self) -> str:
        """Its shape in the words of XLA's compiler for it."""
        kind = self.name.partition("-")[0]  # of a TPU
        if self.chip.platform == "gpu":
            return f"1x1x{self.devices}"
        return f"{kind}:{_shapes(kind)[self.devices]}"


def _shapes(kind: str) -> dict[int, str]:
    return CUBES if kind in ("v4", "v5p") else TORI


def names() -> list[str]:
    """Every machine that there is, by its name."""
    found = []
    for kind, chip in CHIPS.items():
        if chip.platform == "tpu":
            found += [f"{kind}-{chips}" for chips in _shapes(kind)]
        else:
            found += [kind if n == 1 else f"{kind}x{n}" for n in GPUS]
    return found


def find(name: str) -> Machine:
    """The machine of that name; an InputError with the nearest where there is none."""
    if name not in names():
        raise InputError(f"--machine: {nearest('machine', name, names())}")
    kind, number = (name, 1) if name in CHIPS else re.split(r"[-x](?=\d+$)", name)
    return Machine(name, CHIPS[kind], int(number))
