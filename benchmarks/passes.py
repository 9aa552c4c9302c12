"""The passes a training step needs at least, and the paper's times.

F forward, I backward to the input alone, B full backward, D the derivative of an input gradient by
theta (a double backward pass), all of the classifier; f and b are the attacker's. In forwards
F = I = 1, B = 2 and D = 4, so that Plain's step is 3. D goes back through F and through I, each
time to the weights and to what came before.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from l2ljax.methods import method_settings


class Needs(NamedTuple):
    """What an inner problem needs: input gradients, calls of the attacker, and the rarer things."""

    gradients: int
    calls: int = 0
    forwards: int = 0  # without a way back
    doubles: int = 0  # D, with the training loss's own


FORWARD = 1, 1, 2, 4
"""F, I, B and D in forwards."""

PASSES: dict[str, Callable[[int], Needs]] = {
    "plain": lambda steps: Needs(0),
    "fgsm": lambda steps: Needs(1),
    "pgm": lambda steps: Needs(steps),
    "naive_l2l": lambda steps: Needs(0, 1),
    "grad_l2l": lambda steps: Needs(1, 1),
    "two_step_l2l": lambda steps: Needs(2, 2),
    "multistep_l2l": lambda steps: Needs(steps, steps),
    "kstep_l2l": lambda steps: Needs(steps, steps),
    "grad_l2l_trades": lambda steps: Needs(1, 1),
    "two_step_l2l_trades": lambda steps: Needs(2, 2),
    # The partners' features, and phi's own loss at the end.
    "grad_l2l_interp": lambda steps: Needs(2, 1, forwards=1),
    "two_step_l2l_interp": lambda steps: Needs(3, 2, forwards=1),
    # The gradient at the last point is phi's alone.
    "rnn_adv": lambda steps: Needs(steps + 1, steps),
    "rnn_trades": lambda steps: Needs(steps + 1, steps, forwards=1),
    "trades": lambda steps: Needs(steps, forwards=1),
    "fast_bat": lambda steps: Needs(2, doubles=1),
    "fast_at": lambda steps: Needs(1),
    "n_fgsm": lambda steps: Needs(1),
    "grad_align": lambda steps: Needs(2, doubles=1),
    "pgd2": lambda steps: Needs(2),
    "pgd10": lambda steps: Needs(10),
    "apgd10": lambda steps: Needs(10, forwards=1),
}
"""What a step of each method needs besides the pass of its training loss."""

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
    """How often a step of this configuration needs each of F, I, B, D, f and b."""
    settings = method_settings(config["method"])
    needs = PASSES[config["method"]](config["inner_steps"] or 0)
    outer = 2 if config["clean_mix"] or "trades_beta" in settings else 1
    ascents = config["phi_steps"] if "order" in settings and config["order"] == "alternating" else 0
    gradients, calls, forwards, doubles = needs
    return {
        "F": (1 + ascents) * (gradients + forwards + outer),
        "I": (1 + ascents) * gradients + ascents,
        "B": outer,
        "D": doubles,
        "f": (1 + ascents) * calls,
        "b": (ascents or 1) * calls,
    }


def write_out(passes: dict[str, int]) -> str:
    """`2F+I+B+f+b`."""
    return "+".join(f"{n if n > 1 else ''}{name}" for name, n in passes.items() if n)


def floor(passes: dict[str, int]) -> float:
    """The classifier's passes in Plain steps; the attacker's come on top."""
    return sum(n * passes[name] for name, n in zip("FIBD", FORWARD, strict=True)) / 3


def paper_ratio(config: dict[str, Any]) -> float | None:
    """What the paper measured for this method and attacker, whatever the widths are here."""
    learns = "order" in method_settings(config["method"])
    if config["method"] == "pgm" and config["inner_steps"] != 10:
        return None
    return PAPER.get((config["method"], config["attacker"] if learns else ""))
