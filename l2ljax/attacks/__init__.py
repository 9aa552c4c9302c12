"""Attacks for evaluation: attack(rng, f, x, y, *, eps, ...) -> x_adv on any f: x -> logits."""

from l2ljax.attacks.apgd import apgd, apgd_targeted
from l2ljax.attacks.autoattack import Budget, autoattack
from l2ljax.attacks.cw import cw_margin, cw_strict
from l2ljax.attacks.fab import fab_targeted
from l2ljax.attacks.fgsm import fgsm
from l2ljax.attacks.learned import learned
from l2ljax.attacks.pgd import pgd
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
    "learned",
    "parse",
    "parse_all",
    "pgd",
    "square",
]
