"""Which kind of processor a program is compiled for, and how programs for the CPU differ.

    with target.compiling_for("gpu"):
        program = jax.jit(step).lower(*arguments)     # as a GPU gets it, wherever this runs

XLA's CPU backend is slow at some things that GPU and TPU do well. Code that takes another way there
asks `is_cpu()` while it is traced. It must not ask which backend is running: a program for a GPU
can be lowered on a machine that has none. The ways that differ are `repeat` below, `iterate` of
`attacks.loop`, the networks' `convolve` in `models.layers`, and how `functional.initialise`
compiles.

JAX knows of this choice: what was traced for one target is traced anew for another.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import jax

from l2ljax.errors import word
from l2ljax.types import Tree

Platform = Literal["cpu", "gpu", "tpu"]
PLATFORMS: tuple[Platform, ...] = ("cpu", "gpu", "tpu")

GPUS = ("cuda", "rocm")
"""Two names of JAX for a GPU; programs for both are made alike."""

_CHOSEN = jax.make_user_context(None)


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Inside, programs are traced for "cpu", "gpu" or "tpu"; cuda and rocm mean gpu."""
    platform = "gpu" if platform in GPUS else platform
    word("platform", platform, PLATFORMS)
    with _CHOSEN(platform):
        yield


def platform() -> Platform:
    """What programs are traced for: as chosen, or else JAX's own backend on this machine."""
    found = _CHOSEN.value or jax.default_backend()
    return "gpu" if found in GPUS else cast(Platform, found)


def is_cpu() -> bool:
    """Whether programs are traced for a CPU."""
    return platform() == "cpu"


def jit_is_disabled() -> bool:
    """Whether JAX runs functions line by line, because JAX_DISABLE_JIT is set."""
    return jax.config.jax_disable_jit  # pyright: ignore


def repeat(body: Callable[[Tree], Tree], carry: Tree, times: int) -> Tree:
    """`times` applications of body: by `lax.scan`, which is unrolled for a CPU.

    XLA's CPU backend runs a convolution inside a loop 7 to 18 times slower than outside
    (github.com/jax-ml/jax/issues/12868). GPU and TPU keep the loop and its short compile time.
    """
    if times == 1:  # scan would make a loop of it, which XLA removes too late to help
        return body(carry)
    unroll = times if is_cpu() else 1
    return jax.lax.scan(lambda c, _: (body(c), None), carry, length=times, unroll=unroll)[0]
