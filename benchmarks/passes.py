"""The passes a training step needs at least (papers.md 1.8), and what the paper measured.

F forward, I backward to the input alone, B full backward, of the classifier; f and b are the
attacker's. In forwards F = I = 1 and B = 2, so that Plain's step is 3.
"""

from collections.abc import Callable
from typing import Any

from l2ljax.methods import METHODS, mixed

PASSES: dict[str, Callable[[int], tuple[int, int]]] = {
    "plain": lambda steps: (0, 0),
    "fgsm": lambda steps: (1, 0),
    "pgm": lambda steps: (steps, 0),
    "naive_l2l": lambda steps: (0, 1),
    "grad_l2l": lambda steps: (1, 1),
    "two_step_l2l": lambda steps: (2, 2),
    "multistep_l2l": lambda steps: (steps, steps),
    "kstep_l2l": lambda steps: (steps, steps),
}
"""What an inner problem of so many steps needs: input gradients, calls of the attacker."""

PAPER = {
    ("plain", ""): 1.00,
    ("fgsm", ""): 2.86,
    ("pgm", ""): 11.49,
    ("naive_l2l", "slim"): 3.21,
    ("naive_l2l", "wide"): 4.02,
    ("grad_l2l", "slim"): 3.28,
    ("grad_l2l", "wide"): 4.15,
    ("two_step_l2l", "slim"): 6.29,
    ("two_step_l2l", "wide"): 7.92,
}
"""Table 4 over its Plain: CIFAR-10, WRN-34-4, PGM-10, attackers of full width, one GTX 1080 Ti."""


def count_passes(config: dict[str, Any]) -> dict[str, int]:
    """How often a step of this configuration needs each of F, I, B, f and b."""
    row = METHODS[config["method"]]
    gradients, calls = PASSES[config["method"]](config["inner_steps"] or 0)
    outer = 2 if row.train_loss is mixed and config["clean_mix"] else 1
    ascents = config["phi_steps"] if row.learns and config["order"] == "alternating" else 0
    return {
        "F": (1 + ascents) * gradients + outer + ascents,
        "I": (1 + ascents) * gradients + ascents,
        "B": outer,
        "f": (1 + ascents) * calls,
        "b": (ascents or 1) * calls,
    }


def write_out(passes: dict[str, int]) -> str:
    """`2F+I+B+f+b`."""
    return "+".join(f"{n if n > 1 else ''}{name}" for name, n in passes.items() if n)


def floor(passes: dict[str, int]) -> float:
    """The classifier's passes in Plain steps; the attacker's come on top."""
    return (passes["F"] + passes["I"] + 2 * passes["B"]) / 3


def paper_ratio(config: dict[str, Any]) -> float | None:
    """What the paper measured for this method and attacker, whatever the widths are here."""
    learns = METHODS[config["method"]].learns
    if config["method"] == "pgm" and config["inner_steps"] != 10:
        return None
    return PAPER.get((config["method"], config["attacker"] if learns else ""))
