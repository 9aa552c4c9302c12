"""The time that published peaks leave room for, and what a program wastes of them.

    seconds = roofline(counted, machine)
    for line in remarks(counted, machine, bf16=True, rows=64): print(line)

A kernel takes at least its FLOPs over the peak of their precision, and at least its bytes over the
bandwidth of the memory; kernels run one after another, and collectives after them. So the sum is a
lower bound of the time of a call, which no program reaches. Published and measured times of the
same nets were 1.4 to 3 times as long (results/roofline_check.md). What a collective and a kernel
cost however small they are is assumed, and stands in ASSUMED.
"""

from typing import NamedTuple

from l2ljax.plan.count import Count
from l2ljax.plan.machines import Machine

ASSUMED = {"seconds a collective": 1e-5, "seconds a kernel": {"gpu": 2e-6, "tpu": 0.0}}
"""Latencies that no data sheet has: of a small all-reduce among eight devices, and of a launch."""

MOVES_SHARE = 0.10
"""Above this share of a step's bytes, kernels that only reorder arrays are worth a remark."""

FEW_ROWS = 32
"""Below so many images a device, its matrix units stand idle for much of a convolution."""

LANES = 128
"""A TPU fills the minor side of an array up to so many lanes."""


class Seconds(NamedTuple):
    """Of one call, by what bounds it."""

    kernels: float
    """Every kernel at the peak that bounds it."""
    launches: float
    collectives: float

    @property
    def total(self) -> float:
        """One after another."""
        return sum(self)


def roofline(counted: Count, machine: Machine) -> Seconds:
    """The least time of a call on one device of the machine."""
    chip, devices = machine.chip, machine.devices
    own = [k for k in counted.kernels if k.kind != "collective"]
    kernels = sum(
        k.times * max(k.flops / chip.peak(k.precision), k.bytes / chip.bandwidth) for k in own
    )
    launches = sum(k.times for k in own) * ASSUMED["seconds a kernel"][chip.platform]
    collectives = 0.0
    for name, transfer in counted.collectives.items():
        # A ring sends every byte of an all-reduce twice, all but the device's own part.
        ways = (2 if name == "all-reduce" else 1) * (devices - 1) / devices
        collectives += ways * transfer.bytes / chip.link
        collectives += transfer.count * ASSUMED["seconds a collective"]
    return Seconds(kernels, launches, collectives)


def remarks(counted: Count, machine: Machine, *, bf16: bool, rows: int, steps: int) -> list[str]:
    """What is worth knowing before the machine is rented, a line each."""
    lines = []
    slow = [
        k for k in counted.kernels if k.kind == "convolution" and k.precision not in ("bf16", "")
    ]
    if bf16 and slow:
        share = sum(k.flops * k.times for k in slow) / counted.flops
        number = sum(k.times for k in slow) // steps
        lines.append(
            f"--bf16, but {number} convolutions a step compute in float32 "
            f"({100 * share:.1f} % of the FLOPs)"
        )
    if counted.share("move") > MOVES_SHARE:
        lines.append(
            f"{100 * counted.share('move'):.0f} % of the bytes are copies and transposes that only "
            "reorder arrays"
        )
    if machine.chip.platform == "tpu" and counted.padding > MOVES_SHARE:
        lines.append(
            f"{100 * counted.padding:.0f} % of the bytes are padding: a TPU fills the channels up "
            f"to {LANES}, or the batch"
        )
    if rows < FEW_ROWS:
        lines.append(
            f"{rows} images a device are few: fewer devices, or a larger --batch_size, waste less"
        )
    if any(k.kind == "host" for k in counted.kernels):
        lines.append("the program exchanges data with the host while it runs")
    if counted.endless:
        lines.append(f"{counted.endless} loops end when they like: each is counted as one turn")
    waiting = counted.collectives.get("all-reduce")
    if waiting is not None:
        small = 2 * (machine.devices - 1) / machine.devices * waiting.bytes / machine.chip.link
        if waiting.count * ASSUMED["seconds a collective"] > small:
            lines.append(
                f"{waiting.count // steps} all-reduces a step carry "
                f"{waiting.bytes / steps / 2**20:.1f} MiB: they cost their number, not their bytes"
            )
    return lines
