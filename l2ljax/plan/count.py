"""What one call of a compiled program does on one device: kernels, FLOPs, bytes, collectives.

    counted = count(read(compiled.as_text()))
    counted.flops, counted.bytes, counted.collectives["all-reduce"].count

A loop counts as often as it runs. FLOPs are those of matrix products and convolutions, two for a
multiplication and its addition, wherever they stand: alone, fused, or as calls of cuDNN and cuBLAS
(`products`). Bytes are those
that pass between a kernel and the device's memory: what it reads and what it writes, and of an
array from which it takes a slice only the slice.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from l2ljax.plan.hlo import Computation, Instruction, Module, Shape, trips
from l2ljax.plan.products import Product, operands, products

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"),
}
"""What moves nothing."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

MOVES = {"copy", "transpose", "reshape", "bitcast-convert", "copy-start"}
"""Kernels that only bring an array into another order."""

TAKES = {"dynamic-slice", "gather", "slice"}
"""What reads of its first operand as much as it returns."""


class Kernel(NamedTuple):
    """One operation that runs by itself, and how often a call of the program runs it."""

    name: str
    kind: str
    """convolution, product, move, collective, host or other."""
    flops: float
    precision: str
    """Of its products: bf16, f32, f32-highest, f64; empty without any."""
    bytes: float
    padding: float
    """Those of the bytes that are padding of a layout."""
    times: int


class Transfer(NamedTuple):
    """The collectives of one kind in a call: how many, and the bytes of a device's results."""

    count: int
    bytes: int


class Count(NamedTuple):
    """What a call of the program does on one device."""

    kernels: tuple[Kernel, ...]
    collectives: dict[str, Transfer]
    endless: int
    """Loops whose number of turns is no constant; they are counted as one turn."""

    @property
    def flops(self) -> float:
        """Of all products and convolutions."""
        return sum(k.flops * k.times for k in self.kernels)

    @property
    def bytes(self) -> float:
        """Between the kernels and the device's memory."""
        return sum(k.bytes * k.times for k in self.kernels)

    @property
    def padding(self) -> float:
        """The share of the bytes that only fill up layouts."""
        return sum(k.padding * k.times for k in self.kernels) / (self.bytes or 1)

    def share(self, kind: str) -> float:
        """The part of the bytes that kernels of that kind move."""
        return sum(k.bytes * k.times for k in self.kernels if k.kind == kind) / (self.bytes or 1)

    def precisions(self) -> dict[str, float]:
        """FLOPs by the precision of their products."""
        found: dict[str, float] = {}
        for kernel in self.kernels:
            if kernel.flops:
                before = found.get(kernel.precision, 0.0)
                found[kernel.precision] = before + kernel.flops * kernel.times
        return found


def count(module: Module) -> Count:
    """Every kernel of the program, with the loops it stands in."""
    endless: list[str] = []
    kernels = tuple(_kernels(module, module.main, 1, endless))
    found: dict[str, Transfer] = {}
    for kernel in kernels:
        if kernel.kind == "collective":
            name = next(c for c in COLLECTIVES if kernel.name.startswith(c))
            before = found.get(name, Transfer(0, 0))
            found[name] = Transfer(
                before.count + kernel.times, before.bytes + int(kernel.bytes * kernel.times)
            )
    return Count(kernels, found, len(endless))


def _kernels(module: Module, name: str, times: int, endless: list[str]) -> Iterator[Kernel]:
    computation = module.computations[name]
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode in FREE or opcode.endswith(("-done", "-update")) and "dynamic" not in opcode:
            continue
        if opcode == "while":
            turns = trips(module, instruction)
            if turns is None:
                endless.append(instruction.name)
            body = instruction.attribute("body") or ""
            yield from _kernels(module, body, times * (1 if turns is None else turns), endless)
        elif opcode in ("call", "async-start"):
            called = instruction.attribute("to_apply") or instruction.attribute("calls") or ""
            yield from _kernels(module, called, times, endless)
        elif opcode == "conditional":
            ways = [list(_kernels(module, way, times, endless)) for way in _branches(instruction)]
            yield from max(ways, key=lambda way: sum(k.flops + k.bytes for k in way), default=[])
        else:
            yield _kernel(module, name, instruction, times)


def _branches(instruction: Instruction) -> list[str]:
    both = [instruction.attribute(f"{word}_computation") for word in ("true", "false")]
    listed = (instruction.attribute("branch_computations") or "").split(",")
    return [name.strip().lstrip("%") for name in (*both, *listed) if name and name.strip()]


def _kernel(module: Module, name: str, instruction: Instruction, times: int) -> Kernel:
    found = list(products(module, name, instruction))
    flops = sum(p.flops for p in found)
    precision = max(found).precision if found else ""
    moved, padded = _bytes(module, name, instruction)
    kind = _kind(module, module.computations[name], instruction, found)
    label = instruction.opcode if kind == "collective" else instruction.name
    if kind == "collective":  # its operands are its results: count what a device receives
        moved = sum(shape.bytes for shape in _results(instruction))
        padded = 0
    return Kernel(label, kind, flops, precision, moved, padded, times)


def _results(instruction: Instruction) -> Iterable[Shape]:
    """The results of a collective; one that is started names its operands beside them."""
    shapes = [shape for shape in instruction.shapes if shape.dims or len(instruction.shapes) == 1]
    paired = instruction.opcode in ("all-gather-start", "collective-permute-start")
    return shapes[len(shapes) // 2 :] if paired else shapes


def _kind(
    module: Module, computation: Computation, instruction: Instruction, found: list[Product]
) -> str:
    opcode = instruction.opcode
    if any(opcode in (c, f"{c}-start") for c in COLLECTIVES):
        return "collective"
    if (
        opcode in ("infeed", "outfeed", "send", "recv")
        or "xla_ffi_python" in instruction.attributes
    ):
        return "host"
    if found:
        return "convolution" if any(p.is_convolution for p in found) else "product"
    if opcode == "fusion":
        called = module.computations[instruction.attribute("calls") or ""]
        inner = {i.opcode for i in called.values()} - FREE
        return (
            "move" if inner and inner <= MOVES | {"slice", "convert"} and inner & MOVES else "other"
        )
    return "move" if opcode in MOVES and not _fetches(computation, instruction) else "other"


def _fetches(computation: Computation, instruction: Instruction) -> bool:
    """Whether a copy brings an array into the chip's own memory, or out of it, and no more."""
    sides = (instruction.shapes[0], *operands(computation, instruction)[:1])
    return len({shape.on_chip for shape in sides}) > 1


def _bytes(module: Module, name: str, instruction: Instruction) -> tuple[float, float]:
    """What an operation reads and writes, and the part of it that is padding."""
    computation = module.computations[name]
    shapes: list[tuple[Shape, float]] = []
    opcode = instruction.opcode
    if opcode in TAKES:
        shapes = [(s, 2.0) for s in instruction.shapes]
    elif opcode == "dynamic-update-slice":
        shapes = [(s, 2.0) for s in computation[instruction.operands[1]].shapes]
    elif opcode == "fusion":
        shapes = list(_fused(module, computation, instruction))
    elif opcode == "copy-start":
        shapes = [(s, 1.0) for s in instruction.shapes[:2]]
    else:
        shapes = [(s, 1.0) for s in (*instruction.shapes, *operands(computation, instruction))]
    real = [(s, share) for s, share in shapes if not s.on_chip]
    moved = sum(s.padded_bytes * share for s, share in real)
    return moved, moved - sum(s.bytes * share for s, share in real)


def _fused(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Shape, float]]:
    called = module.computations[instruction.attribute("calls") or ""]
    users: dict[str, list[Instruction]] = {}
    for inner in called.values():
        for operand in inner.operands:
            users.setdefault(operand, []).append(inner)
    parameters = {
        int(re.match(r"\s*(\d+)", inner.attributes)[1]): inner  # pyright: ignore
        for inner in called.values()
        if inner.opcode == "parameter"
    }
    root = next(inner for inner in called.values() if inner.root)
    in_place = {root.operands[0]} if root.opcode == "dynamic-update-slice" else set()
    for i, operand in enumerate(instruction.operands):
        inner = parameters.get(i)
        used = users.get(inner.name, []) if inner else []
        if inner and used and all(u.opcode in TAKES and u.operands[0] == inner.name for u in used):
            yield from ((s, 1.0) for u in used for s in u.shapes)
        elif inner is not None and inner.name in in_place:
            continue
        elif operand in computation:
            yield from ((s, 1.0) for s in computation[operand].shapes)
    if in_place:
        yield from ((s, 1.0) for s in called[root.operands[1]].shapes)
    else:
        yield from ((s, 1.0) for s in instruction.shapes)
