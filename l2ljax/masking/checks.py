"""The checks, the cheap ones first: each asks one question of a classifier and its images.

The question stands in each docstring. `examine` asks all that can be asked.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.attacks.checks import FORWARDS, IMAGES, SUMS_TO_ONE, variation
from l2ljax.ball import box, scale
from l2ljax.losses import cross_entropy, margin
from l2ljax.masking.attackers import best_response, own_attacker, transfer
from l2ljax.masking.subject import Check, PlayAttack, Subject, make_check, make_subject, outputs
from l2ljax.types import Array


def randomised(s: Subject) -> Check:
    """Is the classifier random? Attacks that expect a function then measure their own bad luck.

    The largest difference between the logits of 5 forward passes, rows of unit length.
    """
    x, y = scale(jnp.asarray(s.x[:IMAGES])), jnp.asarray(s.y[:IMAGES])
    number, right = variation(s.f, x, y)
    why = f"{FORWARDS} passes over {len(x)} images: {' or '.join(map(str, right))} right"
    return make_check("randomised", number, why)


def probabilities(s: Subject) -> Check:
    """Are the outputs probabilities? A second softmax, cross-entropy's own, then flattens the loss.

    The share of images whose outputs lie in [0, 1] and sum to 1.
    """
    z = s.each(outputs).astype(np.float64)
    alike = ((z >= 0) & (z <= 1)).all(-1) & (np.abs(z.sum(-1) - 1) < SUMS_TO_ONE)
    why = f"outputs lie in [{z.min():.3g}, {z.max():.3g}]"
    return make_check("probabilities", 100 * float(alike.mean()), why)


NEEDED_CLASSES = 4
"""Of the targeted DLR loss, which divides by z_1 - (z_3 + z_4) / 2."""


def few_classes(s: Subject) -> Check:
    """Are there enough classes for the attacks that AutoAttack is made of? How many are missing."""
    classes = s.classes()
    why = f"{classes} classes; the targeted DLR loss needs 4, else another takes its place"
    return make_check("few_classes", max(0, NEEDED_CLASSES - classes), why)


ALONE = 8
"""How many images of the first batch are classified one by one as well."""


def batch_dependence(s: Subject) -> Check:
    """Do an image's logits depend on the images beside it, as with BatchNorm left in batch mode?

    The largest difference of an image's logits alone, and in another order, from its batch's:
    relative to the largest logit where that is above 1, in true float32.
    """
    x = scale(jnp.asarray(s.x[:IMAGES]))
    order = np.asarray(jax.random.permutation(jax.random.fold_in(s.rng, 1), len(x)))
    with jax.default_matmul_precision("highest"):
        together = np.asarray(outputs(s.f, x))
        shuffled = np.asarray(outputs(s.f, x[order]))
        alone = np.concatenate([np.asarray(outputs(s.f, image[None])) for image in x[:ALONE]])
    size = max(1.0, float(np.abs(together).max()))
    apart = float(np.abs(alone - together[:ALONE]).max()) / size
    moved = float(np.abs(shuffled - together[order]).max()) / size
    why = f"logits differ by {apart:.1e} alone, by {moved:.1e} in another order"
    return make_check("batch_dependence", max(apart, moved), why)


@jax.jit
def _no_gradient(f, x, y):
    u = jax.grad(lambda x: margin(f(x), y).sum())(x)
    axes = tuple(range(1, u.ndim))
    return (u == 0).all(axes) | ~jnp.isfinite(u).all(axes)


def zero_gradient(s: Subject) -> Check:
    """Is there a gradient at all? Exact zeros and NaN leave a gradient attack where it stands.

    The share of images whose input gradient of the margin is exactly zero or not finite.
    """
    none = s.each(_no_gradient)
    why = f"{none.sum()} of {len(none)} images have no gradient of the margin"
    return make_check("zero_gradient", 100 * float(none.mean()), why)


@jax.jit
def _saturated(f, x, y):
    def gradient(loss):
        return jax.grad(lambda x: loss(f(x), y).sum())(x)

    axes = tuple(range(1, x.ndim))
    ce = gradient(cross_entropy)
    flat = (ce == 0).all(axes) | ~jnp.isfinite(ce).all(axes)
    logits = f(x)
    gap = -margin(logits, y)
    return jnp.stack([flat & (gradient(margin) != 0).any(axes), gap], axis=-1)


def logit_scale(s: Subject) -> Check:
    """Are the logits so large that cross-entropy is flat where the margin is not?

    The share of images with a gradient of the margin and none, in float32, of cross-entropy.
    """
    flat, gap = s.each(_saturated).T
    right = gap > 0
    typical = float(np.median(gap[right])) if right.any() else 0.0
    why = f"{int(flat.sum())} of {len(flat)} images are saturated; median margin {typical:.3g}"
    return make_check("logit_scale", 100 * float(flat.mean()), why)


DIRECTIONS = 16
LENGTH = 0.1
"""Random signs per image, and how far along them, in units of eps: a small step of an attack."""

TINY = 1e-12


@jax.jit
def _agreement(f, x, y, keys, h):
    """cosine over the directions of (u . d) and (L(x + h d) - L(x - h d)) / 2h, in [-1, 1]."""
    # The whole stretch lies in the box: images are drawn together by h on both sides.
    x = h + (1 - 2 * h) * x

    def value(x):
        return margin(f(x), y)

    u = jax.grad(lambda x: value(x).sum())(x)

    def along(i):
        def signs(key):
            return jax.random.rademacher(jax.random.fold_in(key, i), x.shape[1:], x.dtype)

        d = jax.vmap(signs)(keys)
        return (u * d).sum((1, 2, 3)), (value(x + h * d) - value(x - h * d)) / (2 * h)

    said, seen = jax.lax.map(along, jnp.arange(DIRECTIONS))
    norms = jnp.linalg.norm(said, axis=0) * jnp.linalg.norm(seen, axis=0)
    return (said * seen).sum(0) / jnp.maximum(norms, TINY)


def shattered(s: Subject) -> Check:
    """Does the gradient say how the loss changes over the length of an attack's step?

    1 - the mean cosine between the gradient and finite differences along 16 random signs.
    """
    cosine = s.each(_agreement, LENGTH * s.eps, rng=jax.random.fold_in(s.rng, 2))
    against = int((cosine <= 0).sum())
    why = f"{against} of {len(cosine)} gradients have nothing in common with finite differences"
    return make_check("shattered", 1 - float(cosine.mean()), why)


def one_step(s: Subject) -> Check:
    """Does one large step find more than ten small ones? Then the small ones were led astray.

    Accuracy under PGM-10 minus that under FGSM; an honest net has it below zero.
    """
    one, many = s.stood("fgsm"), s.stood("pgm10")
    gap = many.mean() - one.mean()
    why = f"fgsm {100 * one.mean():.1f} %, pgm10 {100 * many.mean():.1f} %"
    return make_check("one_step", 100 * gap, why, round(gap * len(one)))


POINTS = 16
"""Where the way from the image to its FGSM image is looked at."""


@jax.jit
def _on_the_way(f, x, y, eps):
    u = jax.grad(lambda x: cross_entropy(f(x), y).sum())(x)
    steps = jnp.linspace(0.0, 1.0, POINTS + 1)
    values = jax.lax.map(lambda a: margin(f(x + box(x, a * eps * jnp.sign(u))), y), steps)
    ends = (values[0] < 0) & (values[-1] < 0)
    return jnp.stack([ends, ends & (values > 0).any(0)], axis=-1)


def overfitted(s: Subject) -> Check:
    """Is the net right exactly where the single step of its training ended, and wrong before it?

    Of the images that FGSM leaves standing, the share that falls on a shorter step its way: that is
    catastrophic overfitting (Kim et al. 2021, arXiv 2010.01799). A large difference between FGSM
    and PGM-10 alone proves nothing: an honest net has it at a radius beyond that of its training.
    """
    ends, between = s.each(_on_the_way, s.eps).T
    n, fell = int(ends.sum()), int(between.sum())
    why = f"{fell} of the {n} images that stand after FGSM fall on the way there"
    return make_check("overfitted", 100 * fell / max(n, 1), why, fell)


def more_steps(s: Subject) -> Check:
    """Does PGM with many more steps find what PGM-10 missed? Then its gradients led it nowhere.

    Accuracy under PGM-10 minus that under PGM-1000, both from zero.
    """
    few, many = s.accuracy("pgm10"), s.accuracy("pgm1000")
    return make_check("more_steps", few - many, f"pgm10 {few:.1f} %, pgm1000 {many:.1f} %")


OTHER_LOSSES = ("pgm100_margin", "pgm100_dlr", "apgd-t")


def other_loss(s: Subject) -> Check:
    """Does a loss that ignores the logits' scale, margin or DLR, find what cross-entropy missed?

    Accuracy under PGM-100 on cross-entropy minus the lowest under a margin or DLR attack.
    """
    own = s.accuracy("pgm100")
    others = {name: s.accuracy(name) for name in OTHER_LOSSES}
    best = min(others, key=others.__getitem__)
    why = f"pgm100 {own:.1f} %, {best} {others[best]:.1f} %"
    return make_check("other_loss", own - others[best], why)


def large_radius(s: Subject) -> Check:
    """Does anything stand at eps = 0.5, where every image can be made the same grey?

    Accuracy under 100 steps on the margin there. All images may then be one and the same, so no
    classifier is right on more than one class of them, and an attack that works leaves next to
    nothing.
    """
    wide = make_subject(s.rng, s.f, s.x, s.y, eps=0.5, batch_size=s.batch_size)
    why = f"pgm100_margin at eps = 0.5; {wide.accuracy('clean'):.1f} % without an attack"
    return make_check("large_radius", wide.accuracy("pgm100_margin"), why)


WHITE_BOX = ("pgm100", "pgm100_margin", "apgd-ce", "apgd-t")
"""The attacks by gradient against which Square is held."""


def black_box(s: Subject) -> Check:
    """Does Square, which asks for logits alone, find what every gradient attack missed?

    The points by which it lowers what the white-box attacks together left standing.
    """
    white = s.standing(WHITE_BOX)
    fell = int(white.sum() - s.stood("square", WHITE_BOX).sum())
    why = f"Square fells {fell} of the {int(white.sum())} images that the white-box attacks left"
    return make_check("black_box", 100 * fell / len(white), why, fell)


CHECKS: tuple[Callable[[Subject], Check], ...] = (
    randomised,
    probabilities,
    few_classes,
    batch_dependence,
    zero_gradient,
    logit_scale,
    shattered,
    one_step,
    overfitted,
    more_steps,
    other_loss,
    large_radius,
    black_box,
)
"""The checks that need nothing but the subject."""


def examine(
    s: Subject,
    *,
    siblings: Sequence[Callable[[Array], Array]] = (),
    attacker: PlayAttack | None = None,
    response: PlayAttack | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> list[Check]:
    """All checks that can be made; `on_check` is called after each.

    siblings: other classifiers of the same images; attacker: the model's own phi as an attack;
    response: phi trained anew against this model (`train_response`).
    """
    made: list[Callable[[Subject], Check]] = [*CHECKS]
    made += [partial(transfer, siblings=siblings)] if siblings else []
    made += [partial(own_attacker, attacker=attacker)] if attacker else []
    made += [partial(best_response, response=response)] if response else []
    found = []
    for check in made:
        found.append(check(s))
        if on_check is not None:
            on_check(found[-1])
    return found
