"""Attacks for evaluation: attack(rng, f, x, y, *, eps, ...) -> x_adv on any f: x -> logits.

Attacks of one kind share a file; `specs` makes attacks of names, `cascade` plays them over a set
and checks every claim, `checks` says what makes a number doubtful.
"""

from l2ljax.attacks.autoattack import Budget, autoattack
from l2ljax.attacks.cw import cw_margin, cw_strict
from l2ljax.attacks.fab import fab_targeted
from l2ljax.attacks.learned import learned_attack
from l2ljax.attacks.pgd import apgd, apgd_targeted, fgsm, pgd
from l2ljax.attacks.specs import Attack, parse, parse_all
from l2ljax.attacks.square import square

__all__ = [
    "Attack",
    "Budget",
    "apgd",
    "apgd_targeted",
    "autoattack",
    "cw_margin",
    "cw_strict",
    "fab_targeted",
    "fgsm",
    "learned_attack",
    "parse",
    "parse_all",
    "pgd",
    "square",
]
