"""FLOPs of the matrix products and convolutions in an operation, by their shapes.

A convolution counts only what falls on real pixels, not on padding or on the holes of a dilated
image, so that a transposed convolution counts as much as the one that it transposes.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from l2ljax.plan.hlo import Computation, Instruction, Module, Shape


class Product(NamedTuple):
    """One of them."""

    flops: float
    precision: str
    """bf16, f32, f32-highest or f64."""
    is_convolution: bool


def products(module: Module, name: str, instruction: Instruction) -> Iterator[Product]:
    """Every product of an operation in the computation `name`, in what is fused into it too."""
    computation = module.computations[name]
    if instruction.opcode == "fusion":
        called = instruction.attribute("calls") or ""
        for inner in module.computations[called].values():
            yield from products(module, called, inner)
        return
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    target = target[1] if target else ""
    if instruction.opcode == "dot" or target.startswith(("__cublas", "__triton_gemm")):
        a, _ = operands(computation, instruction)[:2]
        yield Product(_dot_flops(instruction, a), _precision(instruction, a), False)
    elif instruction.opcode == "convolution" or target.startswith("__cudnn$conv"):
        a, b = operands(computation, instruction)[:2]
        flops = _convolution_flops(instruction, a, b, target)
        window = instruction.attribute("window")
        yield Product(flops, _precision(instruction, a), bool(window))


def _precision(instruction: Instruction, a: Shape) -> str:
    name = "bf16" if a.dtype in ("bf16", "f16") else a.dtype
    return f"{name}-highest" if name == "f32" and "highest" in instruction.attributes else name


def _dot_flops(instruction: Instruction, a: Shape) -> float:
    text = instruction.attribute("lhs_contracting_dims")
    if text is None:  # cuBLAS has it in its backend_config
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
        text = found[1].replace('"', "") if found else ""
    summed = math.prod(a.dims[int(d)] for d in text.split(",") if d.strip())
    return 2.0 * instruction.shapes[0].elements * summed


def _convolution_flops(instruction: Instruction, a: Shape, b: Shape, target: str) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {instruction.name}")
    result = instruction.shapes[0]
    images, kernel, out = a, b, result
    if "BackwardInput" in target:  # operands: the gradient of the output, the kernel
        images, kernel, out = result, b, a
    elif "BackwardFilter" in target:  # operands: the images, the gradient of the output
        images, kernel, out = a, result, b
    image_at, kernel_at, out_at = ({k: i for i, k in enumerate(part)} for part in labels.groups())
    window = _window(instruction.attribute("window") or "")
    taps = 1
    for axis in (letter for letter in labels[2] if letter.isdigit()):
        taps *= _taps(
            images.dims[image_at[axis]],
            out.dims[out_at[axis]],
            kernel.dims[kernel_at[axis]],
            *window.get(int(axis), (1, 0, 1, 1)),
        )
    batch = out.dims[out_at["b"]]
    features = kernel.dims[kernel_at["i"]] * kernel.dims[kernel_at["o"]]
    groups = int(instruction.attribute("batch_group_count") or 1)
    return 2.0 * batch * taps * features / groups


def _window(text: str) -> dict[int, tuple[int, int, int, int]]:
    """Of every spatial axis: stride, padding in front, dilation of the image and of the kernel."""

    def values(name: str) -> list[str]:
        found = re.search(rf"\b{name}=(\S+)", text)
        return re.split(r"x", found[1]) if found else []

    sides = len(values("size"))
    strides, pads = values("stride") or ["1"] * sides, values("pad") or ["0_0"] * sides
    left, right = values("lhs_dilate") or ["1"] * sides, values("rhs_dilate") or ["1"] * sides
    return {
        i: (int(strides[i]), int(pads[i].split("_")[0]), int(left[i]), int(right[i]))
        for i in range(sides)
    }


def _taps(n: int, out: int, size: int, stride: int, pad: int, dilate: int, spread: int) -> int:
    """Pairs of an output place and a kernel place that meet a real pixel of n."""
    places = (o * stride + k * spread - pad for o in range(out) for k in range(size))
    return sum(p % dilate == 0 and 0 <= p // dilate < n for p in places)


def operands(computation: Computation, instruction: Instruction) -> list[Shape]:
    """The arrays that an operation takes."""
    shapes = (computation[name].shapes for name in instruction.operands if name in computation)
    return list(itertools.chain(*shapes))
