"""Every check in turn, the cheap ones first."""

from collections.abc import Callable, Sequence
from functools import partial

from l2ljax.masking.batch_dependence import batch_dependence
from l2ljax.masking.best_response import best_response
from l2ljax.masking.black_box import black_box
from l2ljax.masking.few_classes import few_classes
from l2ljax.masking.large_radius import large_radius
from l2ljax.masking.logit_scale import logit_scale
from l2ljax.masking.more_steps import more_steps
from l2ljax.masking.one_step import one_step
from l2ljax.masking.other_loss import other_loss
from l2ljax.masking.overfitted import overfitted
from l2ljax.masking.own_attacker import own_attacker
from l2ljax.masking.probabilities import probabilities
from l2ljax.masking.randomised import randomised
from l2ljax.masking.shattered import shattered
from l2ljax.masking.subject import Play, Subject
from l2ljax.masking.transfer import transfer
from l2ljax.masking.verdict import Check
from l2ljax.masking.zero_gradient import zero_gradient
from l2ljax.types import Array

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

OnCheck = Callable[[Check], None]


def examine(
    s: Subject,
    *,
    siblings: Sequence[Callable[[Array], Array]] = (),
    attacker: Play | None = None,
    response: Play | None = None,
    on_check: OnCheck | None = None,
) -> list[Check]:
    """All checks that can be made; `on_check` is called after each.

    siblings: other classifiers of the same images; attacker: the model's own phi as an attack;
    response: phi trained anew against this model (`respond`).
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
