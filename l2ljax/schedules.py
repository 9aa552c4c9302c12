"""The two time scales: how theta, phi and eps move over a run. All count optimisation steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from l2ljax.errors import InputError, nearest
from l2ljax.gate import check_count, check_eps, check_positive
from l2ljax.types import Array, Tree

SCHEDULES = ("constant", "piecewise", "cyclic", "cosine")


def learning_rate(
    kind: str,
    peak: float,
    *,
    epochs: float,
    steps_per_epoch: int,
    drops: Sequence[float] = (),
    drop_factor: float = 0.1,
    peak_at: float = 0.5,
) -> optax.Schedule:
    """constant | piecewise (times drop_factor at each epoch of drops) | cyclic | cosine.

    cyclic is linear from 0 to the peak at the fraction peak_at of the run, and back to 0 (Wong et
    al. 2020, Fast-BAT); cosine falls from the peak to 0.
    """
    check_positive("epochs", epochs)
    check_count("steps_per_epoch", steps_per_epoch)
    if isinstance(peak, str) or not 0 <= peak < float("inf"):
        raise InputError(f"the learning rate {peak!r} must be a number, 0 or above")
    if not 0 < peak_at <= 1:
        raise InputError(f"peak_at={peak_at} is a share of the run and must lie in (0, 1]")
    total = max(1, round(epochs * steps_per_epoch))
    if kind == "constant":
        return optax.constant_schedule(peak)
    if kind == "piecewise":
        boundaries: dict[int, float] = {}
        for step in (round(epoch * steps_per_epoch) for epoch in drops):
            # Two drops may round to one step: there the rate falls twice.
            boundaries[step] = boundaries.get(step, 1.0) * drop_factor
        return optax.piecewise_constant_schedule(peak, boundaries)
    if kind == "cyclic":
        top = max(1, round(peak_at * total))
        up = optax.linear_schedule(0.0, peak, top)
        down = optax.linear_schedule(peak, 0.0, max(1, total - top))
        return optax.join_schedules([up, down], [top])
    if kind == "cosine":
        return optax.cosine_decay_schedule(peak, total)
    raise InputError(nearest("schedule", str(kind), SCHEDULES))


def radius(eps: float, *, warmup_epochs: float, steps_per_epoch: int) -> Callable[[Array], Array]:
    """eps, or eps times the fraction of the warm-up that is over."""
    check_eps(eps)
    if warmup_epochs < 0:
        raise InputError(f"warmup_epochs={warmup_epochs} must not be negative")
    steps = round(warmup_epochs * steps_per_epoch)

    def schedule(step: Array) -> Array:
        return jnp.asarray(eps * jnp.minimum(1.0, (step + 1) / steps) if steps else eps)

    return schedule


OPTIMISERS = ("sgd", "nesterov", "adam")


def optimiser(
    kind: str,
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    momentum: float = 0.9,
    b2: float = 0.999,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """SGD or Adam with the decay added to the gradient, as PyTorch does.

    clip > 0 bounds the gradient's global norm first.
    """
    for name, value in (("weight_decay", weight_decay), ("clip", clip)):
        if not value >= 0:
            raise InputError(f"{name}={value} must not be negative")
    if momentum is None or not 0 <= momentum < 1:
        raise InputError(f"momentum={momentum} must lie in [0, 1)")
    if isinstance(schedule, str):
        raise InputError(f"schedule={schedule!r} is text: pass learning_rate({schedule!r}, ...)")
    if kind == "adam":
        rule = optax.adam(schedule, b1=momentum, b2=b2)
    elif kind in ("sgd", "nesterov"):
        rule = optax.sgd(schedule, momentum=momentum, nesterov=kind == "nesterov")
    else:
        raise InputError(nearest("optimiser", str(kind), OPTIMISERS))
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    bound = optax.clip_by_global_norm(clip) if clip else optax.identity()
    return optax.chain(bound, decay, rule)


def decay_at(step: Array, decay: float) -> Array:
    """min(decay, (1 + t) / (10 + t)): a short average at first, which forgets the start.

    The warm-up of TensorFlow's ExponentialMovingAverage.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def averaged(average: Tree, new: Tree, decay: Array) -> Tree:
    """decay * average + (1 - decay) * new; of whole numbers, such as counters, the new ones."""

    def one(a: Array, b: Array) -> Array:
        if not jnp.issubdtype(b.dtype, jnp.floating):
            return b
        return (decay * a + (1 - decay) * b).astype(b.dtype)

    return jax.tree.map(one, average, new)
