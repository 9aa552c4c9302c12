"""Attacks for evaluation: attack(rng, f, x, y, *, eps, ...) -> x_adv on any f: x -> logits."""

from l2ljax.attacks.pgd import fgsm, pgd
from l2ljax.attacks.specs import Attack, Run, parse, parse_all

__all__ = ["Attack", "Run", "fgsm", "parse", "parse_all", "pgd"]
