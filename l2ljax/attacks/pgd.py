"""Projected gradient in the l_inf or the l2 ball: FGSM, PGM/PGD (equation 2) and Auto-PGD.

    x_adv = pgd(rng, f, x, y, eps=8/255, steps=10, step_size=2/255, start="uniform", loss="ce")
    x_adv = fgsm(rng, f, x, y, eps=8/255)

f maps images [B, H, W, C] in [0, 1] to logits. Give it as `jax.tree_util.Partial(apply, theta)`
and another set of weights costs no new compilation. rng is one key, or one key per image; `start`
is a word or the perturbation itself, so that another program's random start can be replayed.

Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, section 3) is untargeted or targeted:

    x_adv = apgd(rng, f, x, y, eps=8/255, steps=100, loss="ce")                 # or "dlr"
    x_adv = apgd_targeted(rng, f, x, y, eps=8/255, steps=100, rank=2)           # rank 2 .. 10
    x_adv = apgd(rng, f, x, y, eps=0.5, steps=100, loss="dlr", norm="l2", start=delta)
    x_adv = apgd(rng, noisy, x, y, eps=8/255, steps=100, loss="ce", eot=20)     # noisy(x, key)

Its climb is in `l2ljax.solvers.hand_made`, with the three readings of the authors' code.

SETTLE iterates after its fall it is settled what an image returns, so a batch may stop early and
no image depends on how long its mates stand. The authors' code returns the last misclassified
iterate of all; which images fall is the same. With `eot` it takes the loss and the prediction from
the last draw; here they are means, as the gradient is, and what an image draws comes from its own
key, so that it does not depend on the batch it is in.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2ljax import gate
from l2ljax.attacks.entrance import (
    check_inputs,
    check_rank,
    choose,
    class_of_rank,
    draw_keys,
    fooled,
    iterate,
    mean_over_keys,
    one_by_one,
)
from l2ljax.ball import PROJECT, STARTS, STARTS_L2, TINY, box, per_image, size, steepest
from l2ljax.errors import InputError
from l2ljax.losses import cross_entropy, dlr, dlr_targeted, hinge, kl, margin
from l2ljax.solvers.hand_made import after_look, begin_climb, check_windows, next_point
from l2ljax.types import Array, Tree, as_keys

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


CLIMBED = ("ce", "dlr")
"""What the untargeted attack climbs, of logits and labels."""

_CLIMBED = LOSSES | {"targeted": dlr_targeted}

SETTLE = 10
"""A fallen image returns the last misclassified of this many iterates, the first one included."""


class _State(NamedTuple):
    # Down to `halved` these are the fields of solvers.hand_made.Climb, which says what they are.
    delta: Array
    before: Array
    u: Array
    best: Array
    best_u: Array
    best_loss: Array
    step_size: Array
    loss: Array
    rises: Array
    checked: Array
    halved: Array
    adversarial: Array
    fallen: Array  # iterates since the first misclassified one, itself included; 0: it stands


def _ask(f: Callable[..., Array], x: Array, *keys: Array) -> Array:
    """The logits; of a classifier that draws, with a key for every image."""
    return one_by_one(f, x, *keys) if keys else f(x)


def _mean(g: Callable[..., Tree], noise: Array, i: Array | int, eot: int) -> Tree:
    """The mean of g(keys) over eot draws of look i, every image's from its noise; g() if 0."""
    if not eot:
        return g()
    return mean_over_keys(g, draw_keys(jax.vmap(jax.random.fold_in, (0, None))(noise, i), eot))


def _unit(u, norm):
    """sign(u), or u / |u|_2; where that is NaN, no move."""
    u = jnp.sign(u) if norm == "linf" else u / (size(u, "l2") + TINY)
    return jnp.where(jnp.isnan(u), 0, u)


@partial(jax.jit, static_argnames=("loss", "norm", "eot"))
def _climb(i, s: _State, f, x, labels, eps, checks, noise, *, loss, norm, eot):
    """Step i; step 0 finds u = 0 and no momentum, so that it looks at the start itself."""

    def inside(delta):
        return box(x, PROJECT[norm](delta, eps))

    def climbed(x_adv, *keys):
        logits = _ask(f, x_adv, *keys)
        value = _CLIMBED[loss](logits, *labels)
        return value.sum(), (value, logits)

    delta = next_point(s, i, _unit(s.u, norm), inside)
    look = partial(jax.grad(climbed, has_aux=True), x + delta)
    u, (value, logits) = _mean(look, noise, i, eot)

    wrong = fooled(logits, labels[0])
    fallen = jnp.where(wrong | (s.fallen > 0), s.fallen + 1, 0)
    adversarial = choose(wrong & (fallen <= SETTLE), delta, s.adversarial)
    s = after_look(s, i, delta, u, value, checks[i])
    return s._replace(adversarial=adversarial, fallen=fallen)


def _settled(s: _State) -> Array:
    return (s.fallen >= SETTLE).all()


@partial(jax.jit, static_argnames="eot")
def _clean(f, x, noise, i, *, eot):
    return _mean(partial(_ask, f, x), noise, i, eot)


@partial(jax.jit, static_argnames="norm")
def _boundary(keys, x, eps, norm):
    """eps t / |t|, with t from U(-1, 1) in the l_inf ball and from N(0, 1) in the l2 ball."""
    sample = partial(jax.random.uniform, minval=-1.0) if norm == "linf" else jax.random.normal
    t = jax.vmap(lambda key: sample(key, x.shape[1:], x.dtype))(keys)
    return eps * t / (size(t, norm) + TINY)


@partial(jax.jit, static_argnames="norm")
def _begin(x, delta, lost, eps, norm):
    """Nothing known yet but the start, and which images were lost before it."""
    delta = box(x, PROJECT[norm](delta, eps))
    fallen = jnp.where(lost, SETTLE, jnp.zeros(len(x), int))
    return _State(**begin_climb(delta, eps)._asdict(), adversarial=jnp.zeros_like(x), fallen=fallen)


@jax.jit
def _found(x, s: _State) -> Array:
    return x + choose(s.fallen > 0, s.adversarial, s.best)


def _attack(rng, f, x, y, *, eps, steps, loss, rank, norm, start, eot):
    gate.check_count("steps", steps)
    if eot != 0:
        gate.check_count("eot", eot)
    key = jax.random.key(0) if eot else None
    f, x, y = check_inputs(f, x, y, eps=eps, norm=norm, key=key)
    keys = jax.vmap(jax.random.split)(per_image(rng, len(x)))
    noise = keys[:, 1]
    clean = _clean(f, x, noise, steps + 1, eot=eot)
    labels = (y,)
    if rank is not None:
        check_rank(rank, clean.shape[-1])
        labels = (y, class_of_rank(clean, rank))
    if start is None:
        delta = _boundary(keys[:, 0], x, eps, norm)
    else:
        delta = gate.perturbation(start, x)
    s = _begin(x, delta, fooled(clean, y), eps, norm)
    args = (f, x, labels, eps, jnp.asarray(check_windows(steps)), noise)
    settings = {"loss": loss, "norm": norm, "eot": eot}
    return _found(x, iterate(_climb, s, *args, steps=steps + 1, done=_settled, **settings))


def apgd(
    rng: Array,
    f: Callable[..., Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    steps: int,
    loss: str,
    norm: str = "linf",
    start: Array | None = None,
    eot: int = 0,
) -> Array:
    """The misclassified iterate of `steps` steps up the loss; if none, the one of highest loss.

    `start` is a perturbation [B, H, W, C], None a random point on the boundary of the ball. An
    image that f gets wrong comes back as it is. With `eot`, f is called as f(x, key) on one image
    at a time, and its logits, loss and gradient are means over that many keys of the image's own.
    """
    gate.word("loss", loss, CLIMBED)
    settings = {"eps": eps, "steps": steps, "norm": norm, "start": start, "eot": eot}
    return _attack(rng, f, x, y, loss=loss, rank=None, **settings)


def apgd_targeted(
    rng: Array,
    f: Callable[..., Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    steps: int,
    rank: int,
    norm: str = "linf",
    start: Array | None = None,
    eot: int = 0,
) -> Array:
    """The same up the targeted DLR loss, towards the class that is `rank`-th in f(x); 1 is the top.

    A rank below 2 or above the number of classes is an error: the caller says how many to try.
    """
    gate.check_count("rank", rank)
    settings = {"eps": eps, "steps": steps, "norm": norm, "start": start, "eot": eot}
    return _attack(rng, f, x, y, loss="targeted", rank=rank, **settings)
