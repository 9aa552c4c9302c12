"""Do images made on another classifier harm more than those made on this one itself?"""

from collections.abc import Callable, Sequence
from functools import partial

from l2ljax.attacks.entrance import dataset
from l2ljax.attacks.loop import classifier
from l2ljax.attacks.pgd import pgd
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge
from l2ljax.types import Array

WHITE_BOX = "pgm10"
STEPS = 10


def _on_sibling(rng, f, x, y, *, eps, norm, sibling):
    settings = {"steps": STEPS, "step_size": eps / 3, "start": "zero", "loss": "ce"}
    return pgd(rng, sibling, x, y, eps=eps, norm=norm, **settings)


def transfer(s: Subject, siblings: Sequence[Callable[[Array], Array]]) -> Check:
    """Accuracy under PGM-10 minus that under PGM-10 made on a sibling, the worst of them.

    A sibling is any other classifier of the same images: another seed, another method.
    """
    white, everything = s.stood(WHITE_BOX), s.stood("clean")
    left = []
    for sibling in siblings:
        dataset(sibling, s.x, s.y, batch_size=s.batch_size)
        play = partial(_on_sibling, sibling=classifier(sibling))
        left.append(s.after(play, everything).mean())
    gap = white.mean() - min(left)
    why = f"{WHITE_BOX} {100 * white.mean():.1f} %, made on a sibling {100 * min(left):.1f} %"
    return judge("transfer", LIMITS["transfer"], 100 * gap, why, round(gap * len(white)))
