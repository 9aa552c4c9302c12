"""PGM/PGD (equation 2) and FGSM, its single step: attacks in the l_inf or the l2 ball.

    x_adv = pgd(rng, f, x, y, eps=8/255, steps=10, step_size=2/255, start="uniform", loss="ce")
    x_adv = fgsm(rng, f, x, y, eps=8/255)

f maps images [B, H, W, C] in [0, 1] to logits. Give it as `jax.tree_util.Partial(apply, theta)`
and another set of weights costs no new compilation. rng is one key, or one key per image; `start`
is a word or the perturbation itself, so that another program's random start can be replayed.
"""

from collections.abc import Callable
from functools import partial

import jax

from l2ljax import gate
from l2ljax.attacks.entrance import check_inputs
from l2ljax.attacks.loop import iterate
from l2ljax.ball import PROJECT, STARTS, STARTS_L2, box, steepest
from l2ljax.errors import InputError
from l2ljax.losses import cross_entropy, dlr, hinge, kl, margin
from l2ljax.streams import as_keys
from l2ljax.types import Array

LOSSES = {"ce": cross_entropy, "margin": margin, "hinge": hinge, "dlr": dlr}
"""What the attack climbs, of logits and labels; `kl` climbs the distance to the clean output."""


@partial(jax.jit, static_argnames=("loss", "norm"))
def _step(i, delta, f, x, target, eps, step_size, *, loss, norm):
    def climbed(x):
        return kl(target, f(x)) if loss == "kl" else LOSSES[loss](f(x), target)

    u = jax.grad(lambda x: climbed(x).sum())(x + delta)
    return box(x, PROJECT[norm](delta + step_size * steepest(u, norm), eps))


@partial(jax.jit, static_argnames=("start", "norm"))
def _draw(rng, x, eps, start, norm):
    return (STARTS_L2 if norm == "l2" else STARTS)[start](rng, x, eps)


@partial(jax.jit, static_argnames="norm")
def _cut(delta, x, eps, norm):
    return box(x, PROJECT[norm](delta, eps))


def begin(rng: Array, x: Array, start: str | Array, *, eps: float, norm: str) -> Array:
    """The delta an attack begins at: a word of `STARTS` or the array given, cut to ball and box."""
    if isinstance(start, str):
        gate.word("start", start, STARTS)
        return _cut(_draw(as_keys(rng), x, eps, start, norm), x, eps, norm)
    return _cut(gate.perturbation(start, x), x, eps, norm)


@jax.jit
def _log_softmax(f, x):
    return jax.nn.log_softmax(f(x))


def pgd(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    steps: int,
    step_size: float,
    start: str | Array,
    loss: str,
    norm: str = "linf",
) -> Array:
    """x + delta after `steps` steps of length `step_size`, inside the eps-ball and the box."""
    gate.word("loss", loss, [*LOSSES, "kl"])
    if loss == "kl" and isinstance(start, str) and start == "zero":
        raise InputError(
            "loss 'kl' has no gradient at the image itself: start elsewhere than 'zero'"
        )
    f, x, y = check_inputs(f, x, y, eps=eps, norm=norm)
    gate.check_count("steps", steps)
    gate.check_positive("step_size", step_size)
    delta = begin(rng, x, start, eps=eps, norm=norm)
    target = _log_softmax(f, x) if loss == "kl" else y
    args = (f, x, target, eps, step_size)
    return x + iterate(_step, delta, *args, steps=steps, loss=loss, norm=norm)


def fgsm(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    norm: str = "linf",
) -> Array:
    """x + eps sign(grad_x ell), or x + eps u / |u|_2: one PGM step of size eps from zero."""
    return pgd(rng, f, x, y, eps=eps, steps=1, step_size=eps, start="zero", loss="ce", norm=norm)
