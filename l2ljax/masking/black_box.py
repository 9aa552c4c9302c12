"""Does Square, which asks for logits alone, find what every gradient attack missed?"""

from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

WHITE_BOX = ("pgm100", "pgm100_margin", "apgd-ce", "apgd-t")
BLACK_BOX = "square"


def black_box(s: Subject) -> Check:
    """The points by which Square lowers what the white-box attacks together left standing."""
    white = s.standing(WHITE_BOX)
    fell = int(white.sum() - s.stood(BLACK_BOX, WHITE_BOX).sum())
    why = f"Square fells {fell} of the {int(white.sum())} images that the white-box attacks left"
    return judge("black_box", LIMITS["black_box"], 100 * fell / len(white), why, fell)
