# pyright: reportMissingImports=false
"""Bridge (b): any JAX classifier as a torch module, with no weights to copy.

    model = Bridge(f)            # f: images [B, H, W, C] in [0, 1] -> logits

Forward is the jitted f, backward its jitted vjp, images NCHW outside. The official attacks drop
images as they fall; batches are filled up to powers of two so that few shapes are compiled.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from l2ljax.attacks.entrance import classifier
from l2ljax.types import Array
from official.ours import room


@jax.jit
def _logits(f, x):
    return f(x)


@jax.jit
def _pull(f, x, g):
    return jax.vjp(f, x)[1](g)[0]


def nhwc(x: "torch.Tensor") -> np.ndarray:
    """A torch batch as this package has it."""
    return np.ascontiguousarray(x.detach().cpu().numpy().transpose(0, 2, 3, 1))


def nchw(x: np.ndarray | Array) -> "torch.Tensor":
    """A batch of this package as torch has it."""
    return torch.from_numpy(np.array(np.asarray(x).transpose(0, 3, 1, 2), order="C"))


def _filled(x: np.ndarray) -> Array:
    return jnp.asarray(np.pad(x, [(0, room(len(x)) - len(x))] + [(0, 0)] * (x.ndim - 1)))


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, f):
        ctx.save_for_backward(x)
        ctx.f = f
        return torch.from_numpy(np.array(_logits(f, _filled(nhwc(x)))[: len(x)]))

    @staticmethod
    def backward(ctx, *grads):
        (x,) = ctx.saved_tensors
        u = _pull(ctx.f, _filled(nhwc(x)), _filled(grads[0].numpy()))
        return nchw(u[: len(x)]), None


class Bridge(torch.nn.Module):
    """x [B, C, H, W] in torch -> logits in torch, computed by JAX."""

    def __init__(self, f: Callable[[Array], Array]):
        super().__init__()
        self.f = classifier(f)

    def forward(self, x):
        """Logits, with the input's gradient on the way back."""
        return _Call.apply(x, self.f)
