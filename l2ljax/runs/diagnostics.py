"""Is the learned attacker an attack at all, and which kind? Has robustness collapsed?

Everything about the attacker is measured on given images against the frozen classifier in eval
mode, as a share or a cosine, so that epochs and runs can be compared.

Catastrophic overfitting is robustness that is a single-step illusion. Within an epoch or two the
accuracy under PGD-10 falls to nothing while that under one FGSM step stays or rises (Wong et al.
2020). Two conditions, because an honest net of a learned attacker stands 12 to 14 points better
under FGSM than under PGD, and because a bad epoch alone is no collapse. A third, because what never
was better than a guess cannot fall: without it a run that ended well was said to collapse in epoch
4, after one robust image of 200.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from l2ljax.attacker_input import input_gradient
from l2ljax.attacks.pgd import pgd
from l2ljax.bilevel import evaluating
from l2ljax.losses import cross_entropy
from l2ljax.types import Apply, Array, Method, Problem, State

LEAST = 1e-6
"""The least gain of PGD-20 that counts: below it float32 losses of order 1 are rounding."""


def make_diagnose(
    apply: Apply, method: Method
) -> Callable[[Array, State, Array, Array, float], dict[str, float]]:
    """(key, state, x, y, eps) -> metrics under `attacker/`, for a method that learns.

    Sign agreement and saturation look at what the solver puts into `Inner.aux["tanh"]`, the output
    of its attacker, and are left out where there is none.
    """

    @jax.jit
    def logits(theta, theta_stats, x):
        return apply(theta, theta_stats, x, "eval")[0]

    @jax.jit
    def learned(keys, state, x, y, eps):
        forward = evaluating(apply, state.theta_stats)
        ell = method.attack_loss(forward, state.theta, state.theta_stats, x, y)
        problem = Problem(ell, x, y, eps, keys, train=False)
        inner = method.solver.solve(problem, state.theta, state.phi, state.phi_stats)
        return inner, input_gradient(ell, state.theta, x)[0]

    @jax.jit
    def compare(state, x, y, eps, inner, u, pgm10, pgd20):
        def loss(x):
            return cross_entropy(logits(state.theta, state.theta_stats, x), y).mean()

        clean, strong = loss(x), loss(pgd20)
        delta, other = inner.delta, pgm10 - x
        norms = jnp.linalg.norm(delta.reshape(len(x), -1), axis=1)
        norms *= jnp.linalg.norm(other.reshape(len(x), -1), axis=1)
        dots = (delta * other).reshape(len(x), -1).sum(1)
        measured = {
            "attacker/adequacy": (loss(x + delta) - clean) / jnp.maximum(strong - clean, LEAST),
            "attacker/mean_abs_delta": jnp.abs(delta).mean() / eps,
            "attacker/at_bound": (jnp.abs(delta) > 0.999 * eps).mean(),
            "attacker/cosine_pgm10": (dots / jnp.maximum(norms, 1e-12)).mean(),
        }
        out, seen = inner.aux.get("tanh"), u != 0
        if out is None:  # a solver of the user's own, whose last layer is not told
            return measured
        agree = (jnp.sign(out) == jnp.sign(u)) & seen
        return measured | {
            "attacker/sign_agreement": agree.sum() / jnp.maximum(seen.sum(), 1),
            "attacker/saturation": (jnp.abs(out) > 0.99).mean(),
        }

    def diagnose(key: Array, state: State, x: Array, y: Array, eps: float) -> dict[str, float]:
        frozen = Partial(logits, state.theta, state.theta_stats)
        keys = jax.random.split(key, len(x))
        inner, u = learned(keys, state, x, y, eps)
        strength = {"start": "zero", "loss": "ce"}
        pgm10 = pgd(key, frozen, x, y, eps=eps, steps=10, step_size=eps / 3, **strength)
        pgd20 = pgd(key, frozen, x, y, eps=eps, steps=20, step_size=eps / 8, **strength)
        measured = compare(state, x, y, eps, inner, u, pgm10, pgd20)
        return {name: float(value) for name, value in measured.items()}

    return diagnose


SHARE = 0.5
"""PGD-10 accuracy below this share of its best so far ..."""

GAP = 0.20
"""... while FGSM accuracy lies above it by more than this: then the run has overfitted."""

MOST_ROLLBACKS = 3
"""A run that collapses once more is stopped."""


def overfitted(values: Mapping[str, float], best: float, num_classes: int) -> bool:
    """Whether an epoch's validation shows it; `best` is the best val/robust of the epochs before.

    val/robust is the worst case of PGM-10 with two losses, by which epochs are selected. A guess is
    right in one case of `num_classes`.
    """
    fgsm, robust = values["val/fgsm"], values["val/robust"]
    return best > 1 / num_classes and robust < SHARE * best and fgsm - robust > GAP


def look(
    notes: dict[str, Any], values: Mapping[str, float], epoch: int, num_classes: int
) -> dict[str, float]:
    """The event, where this epoch has overfitted and the one before had not; noted for the next."""
    before, notes["collapsed"] = notes["collapsed"], overfitted(values, notes["peak"], num_classes)
    if before or not notes["collapsed"]:
        return {}
    event = {name: values[f"val/{name}"] for name in ("fgsm", "robust")}
    return event | {"epoch": epoch, "peak": notes["peak"]}


def take_back(notes: dict[str, Any], guard: str, epoch: int) -> int:
    """The number of rollbacks after this one; the run ends with that good epoch if it may no more.

    `guard` is stop or rollback, and the event stands in the notes already.
    """
    events = len(notes["overfitting"])
    if guard == "stop" or events > MOST_ROLLBACKS:
        notes |= {"stopped": epoch, "stopped_by": "overfitting"}
    return min(events, MOST_ROLLBACKS) if guard == "rollback" else 0


def warning(event: Mapping[str, float], action: str, seen: int) -> str:
    """One line: what was seen, and what --on_overfitting=`action` does the `seen`-th time."""
    does = {
        "warn": "--on_overfitting=rollback would go back to the epoch before",
        "stop": "the run ends with its last good epoch",
        "rollback": "the run goes back to its last good epoch, theta's rate halved",
    }[action]
    if action == "rollback" and seen > MOST_ROLLBACKS:
        does = f"after {MOST_ROLLBACKS} rollbacks the run ends with its last good epoch"
    return (
        f"catastrophic overfitting in epoch {event['epoch']}: validation "
        f"{100 * event['robust']:.1f} % under PGM-10 (best so far {100 * event['peak']:.1f}), "
        f"{100 * event['fgsm']:.1f} % under FGSM; {does}"
    )
