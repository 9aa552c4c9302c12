"""FGSM as an attack on any classifier: one step of length eps along the input gradient."""

from collections.abc import Callable

from l2ljax.attacks.pgd import pgd
from l2ljax.types import Array


def fgsm(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    norm: str = "linf",
) -> Array:
    """x + eps sign(grad_x ell), or x + eps u / |u|_2: one PGM step of size eps from zero."""
    return pgd(rng, f, x, y, eps=eps, steps=1, step_size=eps, start="zero", loss="ce", norm=norm)
