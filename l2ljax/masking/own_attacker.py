"""Does the model's own attacker phi, trained against it, find more than PGM-10?"""

from l2ljax.attacks.learned import learned
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Play, Subject
from l2ljax.masking.verdict import Check, judge
from l2ljax.types import Solver, Tree

WHITE_BOX = "pgm10"


def as_attack(solver: Solver, phi: Tree, phi_stats: Tree, loss: str) -> Play:
    """phi as `attacks.learned` plays it; the solver scales the gradient by the image."""

    def play(rng, f, x, y, *, eps, norm):
        given = {"solver": solver, "phi": phi, "phi_stats": phi_stats, "loss": loss}
        return learned(rng, f, x, y, eps=eps, **given)

    return play


def own_attacker(s: Subject, attacker: Play) -> Check:
    """Accuracy under PGM-10 minus that under phi, which makes one pass or a few."""
    white, left = s.stood(WHITE_BOX), s.after(attacker, s.stood("clean"))
    gap = white.mean() - left.mean()
    why = f"{WHITE_BOX} {100 * white.mean():.1f} %, phi {100 * left.mean():.1f} %"
    return judge("own_attacker", LIMITS["own_attacker"], 100 * gap, why, round(gap * len(white)))
