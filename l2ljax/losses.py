"""Losses per example, and the two tables made of them: what an attack climbs, what theta descends.

`cross_entropy` is the paper's ell (section 2). An attack loss builds `ell` once per step, so that
whatever it needs of the clean image (KL: its logits) is computed once and outside the inner loop.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.lax import stop_gradient

from l2ljax.apply import pass_again
from l2ljax.attacker_input import input_gradient, slope
from l2ljax.ball import noise
from l2ljax.types import Array, AttackLoss, Ell, Forward, Inner, Problem, TrainLoss, Tree


def cross_entropy(logits: Array, y: Array) -> Array:
    """ell(f(x), y) for every example; y holds labels [B] or soft labels [B, K]."""
    if y.ndim == logits.ndim:
        return optax.losses.softmax_cross_entropy(logits, y)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)


def cosine(a: Array, b: Array) -> Array:
    """<a, b> / (|a| |b|) for every example; 0 where one of them is 0, with a finite slope.

    Scaled by the largest entry first: the squares of a trained net's gradients vanish in float32.
    """

    def unit(v: Array) -> Array:
        v = v.reshape(len(v), -1)
        top = stop_gradient(jnp.abs(v).max(1, keepdims=True))
        v = v / jnp.where(top == 0, 1.0, top)
        square = (v * v).sum(1, keepdims=True)
        return v / jnp.sqrt(jnp.where(square == 0, 1.0, square))

    return (unit(a) * unit(b)).sum(1)


def smooth(y: Array, num_classes: int, alpha: float) -> Array:
    """Soft labels (1 - alpha) y + alpha / K; labels [B] become one-hot."""
    one_hot = y if y.ndim == 2 else jax.nn.one_hot(y, num_classes)
    return optax.losses.smooth_labels(one_hot, alpha)


def kl(log_p: Array, logits: Array) -> Array:
    """KL(p || softmax(logits)) from log p, summed over the classes."""
    return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), log_p)


def margin(logits: Array, y: Array) -> Array:
    """max_{t != y} f_t - f_y: positive exactly when the example is misclassified."""
    others = jnp.where(jax.nn.one_hot(y, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    return others.max(-1) - _at(logits, y)


def hinge(logits: Array, y: Array) -> Array:
    """The multi-class hinge (1 + max_{t != y} f_t - f_y)_+ of the authors' first upload (1.10)."""
    return optax.losses.multiclass_hinge_loss(logits, y)


def _at(logits: Array, y: Array) -> Array:
    return jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0]


def _spread(logits: Array, below: Callable[[Array], Array]) -> Array:
    """z_(1) less what `below` makes of the largest logits in descending order; never 0."""
    z = lax.top_k(logits, min(4, logits.shape[-1]))[0]
    return z[:, 0] - below(z) + DLR_TINY


DLR_TINY = 1e-12
"""Keeps the quotient of two equal logits finite (Croce and Hein 2020, their code)."""


def dlr(logits: Array, y: Array) -> Array:
    """(max_{t != y} z_t - z_y) / (z_(1) - z_(3)); with fewer than 3 classes the margin itself."""
    if logits.shape[-1] < 3:
        return margin(logits, y)
    return margin(logits, y) / _spread(logits, lambda z: z[:, 2])


def dlr_targeted(logits: Array, y: Array, t: Array) -> Array:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).

    Of 3 classes the divisor is that of `dlr`, of 2 it is 1.
    """
    gap = _at(logits, t) - _at(logits, y)
    classes = logits.shape[-1]
    if classes < 3:
        return gap
    if classes == 3:
        return gap / _spread(logits, lambda z: z[:, 2])
    return gap / _spread(logits, lambda z: (z[:, 2] + z[:, 3]) / 2)


def _at_logits(forward: Forward, loss: Callable[[Array], Array], stats: Tree, looks: int) -> Ell:
    def bound(theta: Tree, stats: Tree, x_adv: Array, draw: Array | int) -> tuple[Array, Tree]:
        logits, stats = forward(theta, stats, x_adv, draw)
        return loss(logits), stats

    return Ell(bound, stats, looks)


def _labelled(loss: Callable[[Array, Array], Array]) -> AttackLoss:
    def bind(forward: Forward, theta: Tree, stats: Tree, x: Array, y: Array) -> Ell:
        return _at_logits(forward, lambda logits: loss(logits, y), stats, looks=0)

    return bind


def _kl_to_clean(forward: Forward, theta: Tree, stats: Tree, x: Array, y: Array) -> Ell:
    logits, stats = forward(theta, stats, x)
    log_p = stop_gradient(jax.nn.log_softmax(logits))
    return _at_logits(forward, lambda logits: kl(log_p, logits), stats, looks=1)


ATTACK_LOSSES: dict[str, AttackLoss] = {
    "ce": _labelled(cross_entropy),
    "kl": _kl_to_clean,
    "margin": _labelled(margin),
    "hinge": _labelled(hinge),
}
"""The attack losses by name. KL has no gradient at x itself: start elsewhere."""


def plain_ell(loss: str, f: Callable[[Array], Array], x: Array, y: Array) -> Ell:
    """The ell of that name for a classifier x -> logits that holds its own theta."""
    return ATTACK_LOSSES[loss](lambda theta, stats, x, draw=0: (f(x), stats), None, {}, x, y)


def _scores(logits: Array, y: Array, label_smoothing: float) -> tuple[Array, Array]:
    target = smooth(y, logits.shape[-1], label_smoothing) if label_smoothing else y
    label = y if y.ndim == 1 else y.argmax(-1)
    return cross_entropy(logits, target).mean(), (logits.argmax(-1) == label).mean()


def clean(label_smoothing: float) -> TrainLoss:
    """mean_i ell(f(x_i), y_i): Plain training."""

    def train_loss(forward, problem: Problem, theta, theta_stats, inner: Inner):
        logits, theta_stats = forward(theta, theta_stats, problem.x)
        loss, accuracy = _scores(logits, problem.y, label_smoothing)
        return loss, theta_stats, {"theta/clean_accuracy": accuracy}

    return train_loss


def adversarial(label_smoothing: float) -> TrainLoss:
    """mean_i ell(f(x_i + delta_i), y_i): the training loss of the L2L game (equation 3)."""

    def train_loss(forward, problem: Problem, theta, theta_stats, inner: Inner):
        y = problem.y if inner.y is None else inner.y
        logits, theta_stats = forward(theta, theta_stats, problem.x + inner.delta)
        loss, accuracy = _scores(logits, y, label_smoothing)
        return loss, theta_stats, {"theta/robust_accuracy": accuracy}

    return train_loss


def clean_mix(beta: float, label_smoothing: float) -> TrainLoss:
    """(CE(x) + beta CE(x + delta)) / (1 + beta); the authors' adv_loss_pgd has beta = 1."""
    plain, attacked = clean(label_smoothing), adversarial(label_smoothing)

    def train_loss(forward, problem: Problem, theta, theta_stats, inner: Inner):
        a, theta_stats, on_clean = plain(forward, problem, theta, theta_stats, inner)
        second = partial(forward, draw=1)
        b, theta_stats, on_attacked = attacked(second, problem, theta, theta_stats, inner)
        return (a + beta * b) / (1 + beta), theta_stats, {**on_clean, **on_attacked}

    return train_loss


def trades(beta: float, label_smoothing: float) -> TrainLoss:
    """CE(f(x), y) + beta KL(f(x) || f(x + delta)), both arguments learning (Zhang et al. 2019).

    The authors' code passes x a second time, for the KL. That pass gives the same logits and is not
    computed again, but it moves the statistics, so that clean and attacked images weigh as there.
    """

    def train_loss(forward, problem: Problem, theta, theta_stats, inner: Inner):
        x, y, before = problem.x, problem.y, theta_stats
        logits, after = forward(theta, before, x)
        attacked, theta_stats = forward(theta, after, x + inner.delta, draw=1)
        theta_stats = pass_again(forward, theta, x, before, after, theta_stats)
        plain, clean_accuracy = _scores(logits, y, label_smoothing)
        gap = kl(jax.nn.log_softmax(logits), attacked).mean()
        loss = plain + beta * gap
        metrics = {
            "theta/kl": gap,
            "theta/clean_accuracy": clean_accuracy,
            "theta/robust_accuracy": _scores(attacked, y, label_smoothing)[1],
        }
        return loss, theta_stats, metrics

    return train_loss


def grad_align(weight: float, label_smoothing: float) -> TrainLoss:
    """CE(x + delta) + weight (1 - mean_i cos(u(x_i), u(x_i + eta_i))), eta ~ U(-eps, eps).

    GradAlign (Andriushchenko and Flammarion 2020) is FGSM training with this penalty on how the
    input gradient turns within the ball. Only u(x + eta) is differentiated again, so that the
    penalty costs one double backward pass; u(x) is a constant, the same one that FGSM takes.
    """
    attacked = adversarial(label_smoothing)

    def train_loss(forward, problem: Problem, theta, theta_stats, inner: Inner):
        x, ell = problem.x, problem.ell
        loss, theta_stats, metrics = attacked(forward, problem, theta, theta_stats, inner)
        # FGSM has looked at x already, so that only x + eta is new to the statistics.
        u, _ = input_gradient(ell, theta, x)
        eta = noise(problem.keys, x, problem.eps)
        near, ell = slope(ell.after(theta_stats), theta, x + eta)
        aligned = alignment(u, near)
        loss = loss + weight * (1 - aligned)
        return loss, ell.stats, {**metrics, "theta/alignment": aligned}

    return train_loss


def alignment(u: Array, near: Array) -> Array:
    """mean_i cos(u_i, near_i) over the images of which neither gradient is zero; 1 without any."""
    seen = jnp.any(u != 0, (1, 2, 3)) & jnp.any(near != 0, (1, 2, 3))
    total = jnp.where(seen, cosine(u, near), 0.0).sum() / jnp.maximum(seen.sum(), 1)
    return jnp.where(seen.any(), total, 1.0)
