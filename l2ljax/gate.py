"""The gate: what every entrance checks of images, labels, radius and logits, and of a step's state.

    x = images(x)                         # float in [0, 1]; uint8 is scaled
    y = labels(y, len(x), classes=10)
    check_eps(eps, norm)

An attack cannot move an image that is not lawful to begin with, so without these checks normalised
pixels would count as "100 % robust". Values are looked at where they are concrete. Inside a
caller's own `jit` or `vmap` they are not, and only rank, dtype and length are checked there.

Whoever plays many attacks on one set checks it once and plays them `with checked():`. All checks
of an attack, those of the classifier included, are made by `l2ljax.attacks.entrance`.
"""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from l2ljax.ball import NORMS, scale
from l2ljax.errors import InputError, word
from l2ljax.types import Array, Batch, Method, State

TOLERANCE = 1e-6
"""How far outside [0, 1] float32 rounding may leave a pixel."""

_CHECKED: ContextVar[bool] = ContextVar("checked", default=False)


@contextmanager
def checked() -> Iterator[None]:
    """Inside, values and classifier are known to be right: rank, dtype and length are looked at.

    With an mlp on 32 digits, on two cores: all checks of an attack take 0.28 ms, these 0.02 ms, and
    ten steps of PGM 2 ms.
    """
    token = _CHECKED.set(True)
    try:
        yield
    finally:
        _CHECKED.reset(token)


def is_checked() -> bool:
    """Whether the caller has checked values and classifier."""
    return _CHECKED.get()


def _is_known(x: Any) -> bool:
    """Whether the values cannot be looked at, or need not be, or are checked when they are read."""
    return isinstance(x, Tracer) or is_checked() or getattr(x, "checks_itself", False)


def check_images(x: Any, name: str = "x") -> None:
    """An InputError unless x is a batch of images: uint8, or floats in [0, 1], [N, H, W, C].

    The images stay as they are. Use `images` where a device array in [0, 1] is wanted.
    """
    shape, dtype = _shape_and_dtype(x, name)
    if len(shape) != 4:
        grey = len(shape) == 3 and shape[-1] not in (1, 3, 4)
        hint = f": add the batch axis, {name}[None]" if len(shape) == 3 else ""
        hint = f": of grey images add the channel, {name}[..., None]" if grey else hint
        raise InputError(f"{name} must be images [N, H, W, C]; its shape is {list(shape)}{hint}")
    if 0 in shape:
        raise InputError(f"{name} holds no pixel: its shape is {list(shape)}")
    if dtype == np.uint8:
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"{name} is {dtype}: pass uint8 pixels, or floats in [0, 1]")
    if _is_known(x):
        return
    low, high = _range(x)
    if np.isnan(low) or np.isnan(high):
        raise InputError(f"{name} holds NaN: every pixel must be a number in [0, 1]")
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    seen = f"pixels of {name} reach from {low:g} to {high:g}"
    if low >= -TOLERANCE and 1.5 < high <= 255:
        raise InputError(f"{seen}: divide by 255, or pass uint8")
    if not np.isfinite(low) or not np.isfinite(high):
        raise InputError(f"{seen}: every pixel must be a number in [0, 1]")
    raise InputError(
        f"{seen} and must lie in [0, 1]: give plain pixels, and subtract mean and divide by std "
        "inside the classifier"
    )


def looks_nchw(shape: tuple[int, ...]) -> bool:
    """Whether 1 or 3 channels stand where the height belongs, and 4 or more where they belong."""
    return shape[1] in (1, 3) and shape[3] >= 4


def images(x: Any, name: str = "x") -> Array:
    """x as a float array in [0, 1], checked; uint8 becomes float32 / 255."""
    check_images(x, name)
    x = jnp.asarray(native(x))
    return x if x.dtype in (jnp.float32, jnp.float64) else scale(x)


def labels(y: Any, n: int, classes: int | None = None, name: str = "y") -> Array:
    """y as an array of n class indices below `classes`, checked."""
    shape, dtype = _shape_and_dtype(y, name)
    if shape == (n, 1):
        raise InputError(f"{name} has the shape [{n}, 1]: pass class indices [{n}], {name}[:, 0]")
    if len(shape) == 2 and shape[0] == n:
        raise InputError(
            f"{name} has the shape {list(shape)}, as one-hot labels have: pass class indices [N], "
            f"{name}.argmax(-1)"
        )
    if shape != (n,):
        raise InputError(f"{name} must be {n} class indices, one an image; it is {list(shape)}")
    if not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(f"{name} is {dtype}: class indices are whole numbers, such as int32")
    if not _is_known(y):
        low, high = (int(v) for v in _range(y))
        if low < 0 or (classes is not None and high >= classes):
            known = "" if classes is None else f", and the classifier has {classes} classes"
            shifted = low < 0 or (low >= 1 and high == classes)
            hint = ": classes count from 0" if shifted else ""
            raise InputError(f"{name} reaches from {low} to {high}{known}{hint}")
    return jnp.asarray(native(y))


def native(x: Any) -> Any:
    """x in this machine's byte order, which a NumPy array from a file may not have."""
    if isinstance(x, np.ndarray) and not x.dtype.isnative:
        return x.astype(x.dtype.newbyteorder("="))
    return x


def perturbation(start: Any, x: Array) -> Array:
    """The perturbation an attack begins at, as an array like x: numbers, none of them NaN."""
    shape, dtype = _shape_and_dtype(start, "start")
    if shape != x.shape:
        raise InputError(
            f"start is a perturbation of x, {list(x.shape)}; its shape is {list(shape)}"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"start is {dtype}: a perturbation is of floats on the [0, 1] scale")
    if not isinstance(start, Tracer) and np.isnan(_range(start)).any():
        raise InputError("start holds NaN: a perturbation is of numbers on the [0, 1] scale")
    return jnp.asarray(start, x.dtype)


def check_count(name: str, value: Any) -> None:
    """An InputError unless value is a whole number above 0."""
    if isinstance(value, Tracer):
        return
    try:
        count = operator.index(value)
    except TypeError:
        raise InputError(f"{name}={_shown(value)} must be a whole number above 0") from None
    if count < 1 or isinstance(value, bool):
        raise InputError(f"{name}={value} must be a whole number above 0")


def check_positive(name: str, value: Any) -> None:
    """An InputError unless value is one finite number above 0."""
    if isinstance(value, Tracer):
        return
    try:
        number = np.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0 < number < np.inf:
        raise InputError(f"{name}={_shown(value)} must be a number above 0")


def _shown(value: Any) -> str:
    """How a value is written in a line: an array by its shape."""
    shape = getattr(value, "shape", ())
    return f"an array {list(shape)}" if shape else repr(value)


def check_norm(norm: str) -> None:
    """An InputError unless norm is one of `ball.NORMS`."""
    word("norm", norm, NORMS)


def check_eps(eps: Any, norm: str = "linf", *, unbounded: bool = False) -> None:
    """An InputError unless eps is a radius on the [0, 1] scale: in (0, 1], in l2 above 0.

    `unbounded` allows infinity too, for an attack that looks for the nearest adversarial image.
    """
    check_norm(norm)
    if isinstance(eps, Tracer):
        return
    if isinstance(eps, str):
        raise InputError(f"eps={eps!r} is text: pass a number, such as 8 / 255")
    try:
        value = float(eps)
    except (TypeError, ValueError):
        said = f"eps={_shown(eps)} is no number: pass one radius, such as 8 / 255"
        raise InputError(said) from None
    if np.isinf(value) and value > 0 and unbounded:
        return
    if not 0 < value < np.inf:
        raise InputError(f"eps={eps} must be a number above 0, such as 8 / 255")
    if norm == "linf" and value > 1:
        raise InputError(f"eps={eps} is outside (0, 1]: pixels live in [0, 1], so 8 means 8 / 255")


def check_logits(out: Any, n: int) -> int:
    """The number of classes, or an InputError unless `out` (array or shape) is logits [n, K]."""
    if isinstance(out, (tuple, list, dict)):
        raise InputError(
            f"the classifier returns a {type(out).__name__}: give a function of the images that "
            "returns the logits alone, such as lambda x: model(x)[0]"
        )
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise InputError(f"the classifier must return logits [N, K]; it returns {type(out)}")
    if len(out.shape) != 2 or out.shape[0] != n:
        raise InputError(
            f"the classifier must return logits [N, K] for [N, H, W, C] images; for {n} images it "
            f"returns {list(out.shape)}"
        )
    if out.shape[1] < 2:
        raise InputError("the classifier returns one number an image: attacks need two classes")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise InputError(f"the classifier returns {out.dtype}: attacks need its float logits")
    if jnp.finfo(out.dtype).bits < 32:
        raise InputError(
            f"the classifier returns {out.dtype} logits, whose rounding hides what an attack "
            "reaches: compute at least the last layer in float32"
        )
    return out.shape[1]


def _shape_and_dtype(x: Any, name: str) -> tuple[tuple[int, ...], Any]:
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise InputError(f"{name} is a {type(x).__name__}: pass a NumPy or JAX array")
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array: pass a plain one, {name}.filled()")
    if not isinstance(x.dtype, np.dtype):
        raise InputError(f"{name} is a {type(x).__name__} of {x.dtype}: pass {name}.numpy()")
    return tuple(x.shape), x.dtype


@jax.jit
def _device_range(x: Array) -> tuple[Array, Array]:
    return x.min(), x.max()


def _range(x: Any) -> tuple[float, float]:
    """The least and the largest entry, NaN where there is one."""
    if isinstance(x, jax.Array):
        # Within a caller's jit too, where only what he passed is unknown.
        with jax.ensure_compile_time_eval():
            low, high = jax.device_get(_device_range(x))
    else:
        low, high = np.min(x), np.max(x)
    return float(low), float(high)


def check_batch(batch: Any) -> Batch:
    """The images and labels of (x, y), checked."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise InputError(f"a batch is (x, y), images and labels, and no {type(batch).__name__}")
    x = images(batch[0])
    return Batch(x, labels(batch[1], len(x)))


def check_players(method: Any, tx_theta: Any, tx_phi: Any) -> None:
    """An InputError unless there are a method and two optax chains."""
    if not isinstance(method, Method):
        raise InputError(f"method is a {type(method).__name__}: pass make_method(name, ...)")
    for name, tx in (("tx_theta", tx_theta), ("tx_phi", tx_phi)):
        if not isinstance(tx, optax.GradientTransformation):
            raise InputError(
                f"{name} is a {type(tx).__name__}: pass an optax transformation, such as "
                "optax.sgd(0.1); optax.identity() where nothing is learned"
            )


def check_state(state: Any, tx_theta: Any, tx_phi: Any, averages: bool) -> None:
    """An InputError unless the state is one that `init_state` made for this step."""
    if not isinstance(state, State):
        raise InputError(f"the state is a {type(state).__name__}: pass init_state(...)")
    moved = (
        ("tx_theta", tx_theta, state.theta, state.opt_theta),
        ("tx_phi", tx_phi, state.phi, state.opt_phi),
    )
    for name, tx, parameters, opt in moved:
        wanted = jax.eval_shape(tx.init, parameters)
        if jax.tree.structure(wanted) != jax.tree.structure(opt):
            raise InputError(f"the state was made for another {name}: give init_state the same one")
    if averages != bool(jax.tree.leaves(state.ema)):
        raise InputError(
            "ema_decay above 0 and init_state(..., ema=True) belong together: the average of a "
            "state without the other is missing, or stays at the first weights"
        )
