"""The loop of the inner problem: `lax.scan`, unrolled on the CPU backend.

XLA's CPU backend runs a convolution inside a loop 7 to 18 times slower than outside
(github.com/jax-ml/jax/issues/12868); GPU and TPU keep the loop, and its short compile time.
"""

from collections.abc import Callable

import jax

from l2ljax.types import Tree


def repeat(body: Callable[[Tree], Tree], carry: Tree, times: int) -> Tree:
    """`times` applications of body by `lax.scan` with shared parameters."""
    if times == 1:  # scan would make a loop of it, which XLA removes too late to help
        return body(carry)
    unroll = times if jax.default_backend() == "cpu" else 1
    return jax.lax.scan(lambda c, _: (body(c), None), carry, length=times, unroll=unroll)[0]
