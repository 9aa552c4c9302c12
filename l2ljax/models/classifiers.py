"""The classifiers by name, `make_classifier` for them and for a user's own, and the two small ones.

The small ones are a multilayer perceptron, and SmallCNN, the MNIST network of TRADES.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from l2ljax.errors import InputError, nearest
from l2ljax.gate import check_count
from l2ljax.models.layers import (
    Dropout,
    at_least_float32,
    dense,
    he_fan_in,
    head,
    normalise,
    scaled,
)
from l2ljax.models.residual import (
    PreActResNet18,
    PreActResNet18GradAlign,
    ResNet18,
    ResNet18For64,
    WideResNet,
    check_depth,
)
from l2ljax.types import Array


class MLP(nn.Module):
    """dense-act for every entry of `hidden`, times `width`, then dense to the classes.

    It has no convolution, no BatchNorm and no statistics: for quick studies, and for tests that
    need a network whose three BatchNorm modes are the same function. Initial values are PyTorch's.
    """

    num_classes: int
    hidden: tuple[int, ...] = (256, 256)
    act: Callable[[Array], Array] = nn.relu
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits, or the head's features; `train` changes nothing."""
        x = normalise(x, self.mean, self.std, self.dtype).reshape(len(x), -1)
        for layer, units in enumerate(self.hidden):
            units = scaled(units, self.width)
            x = self.act(dense(x, units, dtype=self.dtype, name=f"fc{layer + 1}"))
        x = at_least_float32(x)
        return x if features else head(x, self.num_classes)


SMALLEST = 16
"""Two unpadded 3x3 convolutions and a halving, twice, leave at least one pixel from here on."""


class SmallCNN(nn.Module):
    """conv 32, 32, pool, conv 64, 64, pool, dense 200, dropout, 200, classes; times `width`.

    The MNIST network of TRADES (Zhang et al. 2019). Convolutions and pooling are unpadded, which
    leaves nothing of an image under 16 pixels: such images (the 8x8 digits) get SAME padding
    throughout instead. The last layer starts at zero, so all logits and the first step's input
    gradient are zero.
    """

    num_classes: int
    dropout: float = 0.5
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        padding = "VALID" if min(x.shape[1:3]) >= SMALLEST else "SAME"
        x = normalise(x, self.mean, self.std, self.dtype)
        for stage, channels in enumerate((32, 64)):
            for layer in (1, 2):
                x = nn.Conv(
                    scaled(channels, self.width),
                    (3, 3),
                    padding=padding,
                    kernel_init=he_fan_in,
                    dtype=self.dtype,
                    name=f"conv{2 * stage + layer}",
                )(x)
                x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), (2, 2), padding)
        x = x.reshape(len(x), -1)
        x = nn.relu(dense(x, scaled(200, self.width), dtype=self.dtype, name="fc1"))
        x = Dropout(self.dropout)(x, train=train)
        x = nn.relu(dense(x, scaled(200, self.width), dtype=self.dtype, name="fc2"))
        x = at_least_float32(x)
        if features:
            return x
        zeros = nn.initializers.zeros_init()
        return head(x, self.num_classes, kernel_init=zeros, bias_init=zeros, name="fc3")


MODELS: dict[str, type[nn.Module]] = {
    "wrn-D-K": WideResNet,
    "preact_resnet18": PreActResNet18,
    "preact_resnet18_gradalign": PreActResNet18GradAlign,
    "resnet18": ResNet18,
    "resnet18_64": ResNet18For64,
    "small_cnn": SmallCNN,
    "mlp": MLP,
}
"""The classifiers by name; "wrn-D-K" stands for any D = 6 n + 4 and any K, as in wrn-34-10."""


def make_classifier(
    model: str | Callable[..., Any],
    num_classes: int,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    dtype: Dtype = jnp.float32,
    dropout: float | None = None,
    width: float = 1.0,
    remat: bool = False,
    shape: tuple[int, int, int] | None = None,
    rngs: Any = None,
) -> Any:
    """The classifier of that name, or the one a user's own class or function makes.

    It takes images in [0, 1] and normalises them by `mean` and `std` itself. `width` multiplies
    every hidden channel count, and `dropout=None` is the network's own (0.5 in small_cnn, else 0).
    `remat` trades time for memory: the blocks of the residual nets compute their values again on
    the way back. `shape` is an image's (H, W, C), and `rngs` an `nnx.Rngs` or a key for
    one.

    A user's own `model` is a linen class, or a function that returns a linen or an nnx model. It is
    called with num_classes, mean, std and dtype, and with the others where they are given, but with
    nothing that its signature does not name. A dropout, a width or a bfloat16 dtype that it does
    not take is refused; mean, std, shape, rngs and remat are there for those who want them.
    """
    check_count("num_classes", num_classes)
    if num_classes < 2:
        raise InputError(
            f"num_classes={num_classes}: a classifier tells two classes apart at least"
        )
    _check_moments(mean, std)
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout} must lie in [0, 1)")
    scaled(1, width)
    name, build = _named(model)
    # Of a class by its __init__, since flax.nnx hides it behind a call of (*args, **kwargs).
    made, bound = (build.func, build.keywords) if isinstance(build, partial) else (build, {})
    makes = partial(made.__init__, None, **bound) if isinstance(made, type) else build
    named = inspect.signature(makes).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
    if isinstance(rngs, jax.Array):
        from flax import nnx  # most users need linen alone

        rngs = nnx.Rngs(rngs)
    options = {
        "num_classes": num_classes,
        "mean": tuple(map(float, mean)),
        "std": tuple(map(float, std)),
        "dtype": dtype,
        "dropout": dropout,
        "width": None if width == 1 else width,
        "remat": remat or None,
        "shape": shape,
        "rngs": rngs,
    }
    given = {option: value for option, value in options.items() if value is not None}
    taken = given if takes_any else {o: value for o, value in given.items() if o in named}
    asked = {"dropout": bool(dropout), "width": width != 1, "dtype": jnp.dtype(dtype).itemsize < 4}
    for option, is_asked in asked.items():
        if is_asked and option not in taken:
            value = jnp.dtype(dtype).name if option == "dtype" else f"{given[option]:g}"
            raise InputError(f"{name} has no {option}, got {value}")
    needed = {
        parameter
        for parameter, how in named.items()
        if how.default is how.empty and how.kind in (how.POSITIONAL_OR_KEYWORD, how.KEYWORD_ONLY)
    }
    if missing := sorted(needed - taken.keys()):
        raise InputError(
            f"{name} asks for {', '.join(missing)}: a classifier is made with "
            f"{', '.join(options)} where its signature names them, and with nothing else"
        )
    return _model(name, build(**taken))


def _named(model: str | Callable[..., Any]) -> tuple[str, Callable[..., Any]]:
    """What errors call it, and the class or function that makes it."""
    if not isinstance(model, str):
        if not callable(model) or isinstance(model, nn.Module):
            raise InputError(
                f"model is a {type(model).__name__}: pass a name, a class, or a function that "
                "returns the model"
            )
        named = model.func if isinstance(model, partial) else model
        return getattr(named, "__name__", type(named).__name__), model
    wrn = re.fullmatch(r"wrn-(\d+)-(\d+)", model)
    if not wrn:
        if model not in MODELS or model == "wrn-D-K":
            raise InputError(nearest("model", model, MODELS))
        return model, MODELS[model]
    depth, widen = map(int, wrn.groups())
    try:
        check_depth(depth)
        check_count("its width", widen)
    except InputError as error:
        raise InputError(f"{model}: {error}") from None
    return model, partial(WideResNet, depth=depth, widen=widen)


def _model(name: str, made: Any) -> Any:
    """What was made, if it is a linen or an nnx model."""
    if not isinstance(made, nn.Module):
        from flax import nnx  # most users need linen alone

        if not isinstance(made, nnx.Module):
            raise InputError(
                f"{name} returns a {type(made).__name__}: a classifier is a flax.linen module or a "
                "flax.nnx model"
            )
    return made


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
