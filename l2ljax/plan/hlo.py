"""An XLA program's text, read into computations and instructions.

    module = read(compiled.as_text())
    for instruction in module.entry:
        print(instruction.opcode, instruction.shapes, trips(module, instruction))

The text is XLA's own printed form. It is read because the numbers that JAX offers are not enough:
`cost_analysis()` counts the body of a loop once, and is empty for a GPU.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

BITS = {
    **{"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32},
    **{"s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128},
    **{"f8e4m3fn": 8, "f8e5m2": 8, "token": 0, "opaque": 0},
}
"""Bits of an element by the name of its type."""


class Shape(NamedTuple):
    """One array: its type, its sides, and its layout as printed, such as `1,0:T(8,128)`."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def elements(self) -> int:
        """The product of the sides."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """What the elements take, without padding."""
        return self.elements * BITS[self.dtype] // 8

    @property
    def padded_bytes(self) -> int:
        """What it takes in memory: a TPU pads the minor sides to whole tiles, such as 8x128."""
        tile = re.search(r":T\(([\d,]+)\)", self.layout)
        if tile is None or not self.dims:
            return self.bytes
        order = [int(d) for d in self.layout.partition(":")[0].split(",") if d]
        sides = [self.dims[d] for d in reversed(order)]
        sizes = [int(side) for side in tile[1].split(",")]
        for i in range(1, min(len(sizes), len(sides)) + 1):
            sides[-i] = math.ceil(sides[-i] / sizes[-i]) * sizes[-i]
        return math.prod(sides) * BITS[self.dtype] // 8

    @property
    def on_chip(self) -> bool:
        """Whether it lies in a memory of the chip itself (a TPU's VMEM), not in the device's."""
        return re.search(r"S\([1-9]\d*\)", self.layout) is not None


class Instruction(NamedTuple):
    """One line: what it makes, from which others, and its attributes as printed."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """The text of an attribute: a computation's name, or what stands in the braces."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes)
        return None if found is None else found[1] if found[1] is not None else found[2]


Computation = Mapping[str, Instruction]


class Module(NamedTuple):
    """Every computation by name, and the name of the one that is run."""

    computations: Mapping[str, Computation]
    main: str

    @property
    def entry(self) -> Iterator[Instruction]:
        """The instructions of the computation that is run."""
        return iter(self.computations[self.main].values())


_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=\s]*)\](?:\{([^}]*)\})?")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s*(?:\(.*)?\{\s*$")


def read(text: str) -> Module:
    """The module that XLA printed."""
    computations: dict[str, dict[str, Instruction]] = {}
    main, current = "", None
    for line in text.splitlines():
        begun = _LINE.match(line)
        if begun and current is not None:
            instruction = _instruction(line[begun.end() :], begun[2], bool(begun[1]))
            current[instruction.name] = instruction
        elif not line.startswith((" ", "HloModule")) and (header := _HEADER.match(line)):
            current = computations.setdefault(header[2], {})
            main = header[2] if header[1] else main
        elif line.startswith("}"):
            current = None
    return Module(computations, main)


def _instruction(rest: str, name: str, root: bool) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shapes(rest[:end]))
    rest = rest[end:].lstrip()
    opens = rest.index("(")
    closes = _closing(rest, opens)
    opcode, inside = rest[:opens], rest[opens + 1 : closes - 1]
    if opcode in ("constant", "parameter", "iota"):
        return Instruction(name, opcode, shapes, (), f"{inside}{rest[closes:]}", root)
    operands = (part.split()[-1].lstrip("%") for part in _parts(inside) if part.strip())
    return Instruction(name, opcode, shapes, tuple(operands), rest[closes:], root)


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, dims, layout in _SHAPE.findall(text):
        if dtype in BITS:
            sides = tuple(int(d.strip("<= ")) for d in dims.split(",") if d.strip("<= "))
            yield Shape(dtype, sides, layout)


def _closing(text: str, opens: int) -> int:
    """The place after the bracket that closes the one at `opens`."""
    depth = 0
    for i in range(opens, len(text)):
        depth += (text[i] in "({[") - (text[i] in ")}]")
        if depth == 0:
            return i + 1
    return len(text)


def _parts(text: str) -> Iterator[str]:
    """The parts between the commas that stand in no brackets."""
    begin = depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            yield text[begin:i]
            begin = i + 1
    yield text[begin:]


def trips(module: Module, loop: Instruction) -> int | None:
    """How often a `while` runs its body: as XLA noted it, or by the bound of its condition.

    A loop that may end early runs at most that often. None: its bound is no constant.
    """
    noted = re.search(r'known_trip_count"?[:=]\s*\{\s*"?n"?[:=]\s*"?(\d+)', loop.attributes)
    if noted:
        return int(noted[1])
    condition = loop.attribute("condition")
    bounds = list(_bounds(module, condition)) if condition else []
    return max(bounds) if bounds else None


def _bounds(module: Module, name: str) -> Iterator[int]:
    """The integer constants of a condition, in what it calls too."""
    for instruction in module.computations[name].values():
        if instruction.opcode == "constant" and instruction.shapes[0].dims == ():
            found = re.match(r"\s*(\d+)\b", instruction.attributes)
            if found and instruction.shapes[0].dtype[:1] in "su":
                yield int(found[1])
        called = instruction.attribute("calls") or instruction.attribute("to_apply")
        if called:
            yield from _bounds(module, called)
