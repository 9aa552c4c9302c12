"""The table of classifiers: a name and the data's statistics become a network.

"wrn-D-K" stands for a family: any depth D = 6 n + 4, any width K.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from l2ljax.errors import InputError, nearest
from l2ljax.gate import check_count
from l2ljax.models.layers import scaled
from l2ljax.models.mlp import MLP
from l2ljax.models.preact_resnet import PreActResNet18, PreActResNet18GradAlign
from l2ljax.models.resnet import ResNet18
from l2ljax.models.small_cnn import SmallCNN
from l2ljax.models.wrn import WideResNet

MODELS: dict[str, type[nn.Module]] = {
    "wrn-D-K": WideResNet,
    "preact_resnet18": PreActResNet18,
    "preact_resnet18_gradalign": PreActResNet18GradAlign,
    "resnet18": ResNet18,
    "small_cnn": SmallCNN,
    "mlp": MLP,
}
"""The classifiers by name; "wrn-D-K" is written with its numbers, as in wrn-34-10."""


def make_classifier(
    name: str,
    num_classes: int,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    dtype: Dtype = jnp.float32,
    dropout: float | None = None,
    width: float = 1.0,
    axis_name: str | None = None,
    remat: bool = False,
) -> nn.Module:
    """The classifier `name` for images in [0, 1] that it normalises by `mean` and `std` itself.

    `width` multiplies every hidden channel count, `dropout=None` is the network's own (0.5 in
    small_cnn, else 0), `axis_name` is the device axis over which BatchNorm averages. `remat` trades
    time for memory: the blocks of the residual nets compute their values again on the way back.
    """
    wrn = re.fullmatch(r"wrn-(\d+)-(\d+)", name)
    if not wrn and (name not in MODELS or name == "wrn-D-K"):
        raise ValueError(nearest("model", name, list(MODELS)))
    module = WideResNet if wrn else MODELS[name]
    check_count("num_classes", num_classes)
    if num_classes < 2:
        raise InputError(
            f"num_classes={num_classes}: a classifier tells two classes apart at least"
        )
    _check_moments(mean, std)
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout} must lie in [0, 1)")
    takes = {field.name for field in dataclasses.fields(module)}

    fields = {
        "num_classes": num_classes,
        "mean": tuple(map(float, mean)),
        "std": tuple(map(float, std)),
        "dtype": dtype,
    }
    if wrn:
        depth, k = map(int, wrn.groups())
        fields |= {"depth": _valid_depth(depth, name), "width": k, "base": scaled(16, width)}
        if k < 1:
            raise ValueError(f"{name}: width must be at least 1")
    else:
        scaled(1, width)
        fields["width"] = width
    shared = {"axis_name": axis_name, "remat": remat}
    fields |= {field: value for field, value in shared.items() if field in takes}
    if "dropout" in takes:
        if dropout is not None:
            fields["dropout"] = dropout
    elif dropout:
        raise ValueError(f"{name} has no dropout, got {dropout:g}")
    return module(**fields)


def _check_moments(mean: Any, std: Any) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if np.ndim(values) != 1:
            raise InputError(f"{name}={values!r} must be a tuple, one number for each channel")
        if not all(-1 <= value <= 1 for value in values):
            raise InputError(
                f"{name}={tuple(values)} is no {name} of pixels in [0, 1]: divide it by 255"
            )
    if not all(value > 0 for value in std):
        raise InputError(f"std={tuple(std)} must be above 0, because pixels are divided by it")


def _valid_depth(depth: int, name: str) -> int:
    if depth >= 10 and (depth - 4) % 6 == 0:
        return depth
    below = depth - (depth - 4) % 6
    near = "10" if below < 10 else f"{below} and {below + 6}"
    raise ValueError(f"{name}: depth must be 6 n + 4 with n >= 1, nearest {near}")
