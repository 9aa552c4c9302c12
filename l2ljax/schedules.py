"""The two time scales: how theta, phi and eps move over a run. All count optimisation steps."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax

from l2ljax.types import Array

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
    raise ValueError(f"unknown schedule {kind!r}: known are {', '.join(SCHEDULES)}")


def radius(eps: float, *, warmup_epochs: float, steps_per_epoch: int) -> Callable[[Array], Array]:
    """eps, or eps times the fraction of the warm-up that is over."""
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
    if kind == "adam":
        rule = optax.adam(schedule, b1=momentum, b2=b2)
    elif kind in ("sgd", "nesterov"):
        rule = optax.sgd(schedule, momentum=momentum, nesterov=kind == "nesterov")
    else:
        raise ValueError(f"unknown optimiser {kind!r}: known are {', '.join(OPTIMISERS)}")
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    bound = optax.clip_by_global_norm(clip) if clip else optax.identity()
    return optax.chain(bound, decay, rule)
