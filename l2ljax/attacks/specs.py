"""Attacks by name: what `--attacks=` takes. Every name becomes runs over the standing images.

    clean, fgsm             no attack; one step of size eps
    pgmT                    zero start, step eps/3 for T <= 10 and 2.5 eps/T above (0.01 at 0.03)
    pgmTxR                  uniform start, R restarts, the worst of them for every image
    ..._margin              the same with the margin loss in place of cross-entropy (_dlr, _kl too)
    apgd-ce apgd-dlr apgd-t fab-t square        the parts of AutoAttack
    autoattack, autoattack_quick                all four; apgd-ce and apgd-t alone (upper bound)
    cw100, cw_strict        Carlini and Wagner's margin, by PGM, and their own method
    learned:WORKDIR         that run's trained attacker phi
    FILE.py:FUNCTION        one's own function attack(rng, f, x, y, *, eps, norm) -> x_adv
    a+b                     the worst of a and b for every image
    selection               pgm10+pgm10_margin, by which training selects its checkpoint

A preset that names its protocol's radius is run at that radius, in the l_inf ball alone.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp

from l2ljax import gate
from l2ljax.attacks.autoattack import OFFICIAL, PARTS, VERSIONS, Budget, plan
from l2ljax.attacks.cascade import Run
from l2ljax.attacks.cw import cw_margin, cw_strict
from l2ljax.attacks.pgd import pgd
from l2ljax.ball import NORMS
from l2ljax.errors import InputError, nearest


class Pgm(NamedTuple):
    """PGM with restarts; eps None: the evaluation's own radius, else a protocol's, in l_inf."""

    steps: int
    step: float
    start: str
    loss: str = "ce"
    restarts: int = 1
    eps: float | None = None
    relative: bool = True

    @property
    def norms(self) -> tuple[str, ...]:
        """The balls it knows; a radius of its own is one of the l_inf ball."""
        return NORMS if self.eps is None else ("linf",)

    def step_size(self, eps: float) -> float:
        """The step on the [0, 1] scale."""
        return self.step * eps if self.relative else self.step

    def runs(self, name: str, classes: int) -> list[Run]:
        """One run per restart; a restart has the same draws in every attack."""

        def play(rng, f, x, y, *, eps, norm):
            return pgd(
                rng,
                f,
                x,
                y,
                eps=eps,
                steps=self.steps,
                step_size=self.step_size(eps),
                start=self.start,
                loss=self.loss,
                norm=norm,
            )

        cost = 3.0 * self.steps
        return [Run(name, play, restart, self.eps, cost) for restart in range(self.restarts)]


class AutoAttackParts(NamedTuple):
    """Attacks of AutoAttack, in this order."""

    names: tuple[str, ...]
    budget: Budget
    eps: float | None = None
    norms: tuple[str, ...] = NORMS

    def runs(self, name: str, classes: int) -> list[Run]:
        """Named by their own names, so that the accuracy after each can be shown."""
        return plan(self.names, self.budget, classes)


class OneRun(NamedTuple):
    """Any other attack, played once: play(keys, f, x, y, *, eps, norm) -> x_adv, a key an image."""

    play: Callable
    cost: float
    eps: float | None = None
    norms: tuple[str, ...] = ("linf",)

    def runs(self, name: str, classes: int) -> list[Run]:
        """The one run."""
        return [Run(name, self.play, cost=self.cost)]


Part = Pgm | AutoAttackParts | OneRun


class Attack(NamedTuple):
    """A name and its parts, each with its own name; no part at all is the clean accuracy.

    An accuracy under it is an upper bound on another attack's, `bounds`, where that is not None.
    """

    name: str
    parts: tuple[tuple[str, Part], ...]
    bounds: str | None = None

    def runs(self, classes: int) -> list[Run]:
        """What a cascade plays."""
        return [run for name, part in self.parts for run in part.runs(name, classes)]

    def check_norm(self, norm: str) -> None:
        """An InputError if the norm is unknown or a part of it knows another ball only."""
        gate.check_norm(norm)
        for name, part in self.parts:
            if norm not in part.norms:
                raise InputError(f"attack {name!r} has no {norm} form: {', '.join(part.norms)}")

    def radius(self, eps: float) -> float:
        """The radius this attack uses when the evaluation is at eps; 0 if it moves nothing."""
        if not self.parts:
            return 0.0
        _, part = self.parts[0]
        return eps if part.eps is None else part.eps


PRESETS: dict[str, tuple[Part, ...]] = {
    "clean": (),
    "fgsm": (Pgm(1, 1.0, "zero"),),
    # What a checkpoint is selected by: either loss alone can be fooled.
    "selection": (Pgm(10, 1 / 3, "zero"), Pgm(10, 1 / 3, "zero", "margin")),
    "pgm10_v1": (Pgm(10, 0.01, "zero", eps=0.03, relative=False),),
    "pgd10_l2l": (Pgm(10, 0.003, "uniform", eps=0.031, relative=False),),
    "pgd20_l2l": (Pgm(20, 0.003, "uniform", eps=0.031, relative=False),),
    "pgd100_l2l": (Pgm(100, 0.003, "uniform", eps=0.031, relative=False),),
    "pgd50_10": (Pgm(50, 0.25, "uniform", restarts=10),),
    "pgd20_madry": (Pgm(20, 2 / 255, "uniform", eps=8 / 255, relative=False),),
}

AUTO = {"autoattack": "standard", "autoattack_quick": "quick"}
"""The cascades and their versions."""

FORMS = [*PRESETS, *AUTO, *PARTS, "cw100", "cw_strict", "pgm10", "pgm100x5", "pgm10_margin"]
"""Every name, and examples of the patterns."""

_PGM = re.compile(
    r"pgm(?P<steps>[1-9]\d*)(x(?P<restarts>[1-9]\d*))?(_(?P<loss>margin|dlr|kl|hinge))?"
)

CW_STEPS = 100
"""Of the paper's CW attack."""


def _cw_margin(rng, f, x, y, *, eps, norm):
    step_size = 2.5 * eps / CW_STEPS
    return cw_margin(
        rng, f, x, y, eps=eps, steps=CW_STEPS, step_size=step_size, start="uniform", norm=norm
    )


OWN_COST = 30.0
"""What one image is taken to cost in an attack of the user's own: as much as ten steps of PGM."""


def own_attack(name: str, function: Callable[..., Any]) -> OneRun:
    """attack(rng, f, x, y, *, eps, norm) -> x_adv, written by the user, as part of an attack.

    It gets one key a batch. What it claims is checked as that of every attack: an image counts only
    if it is in the ball and the box and is misclassified when it is classified again.
    """
    form = "attack(rng, f, x, y, *, eps, norm) -> x_adv"
    try:
        inspect.signature(function).bind(0, 0, 0, 0, eps=0, norm=0)
    except TypeError:
        raise InputError(f"attack {name!r} cannot be called as {form}") from None

    def play(keys, f, x, y, *, eps, norm):
        x_adv = function(keys[0], f, x, y, eps=eps, norm=norm)
        shape = getattr(x_adv, "shape", None)
        if shape != x.shape or not jnp.issubdtype(x_adv.dtype, jnp.floating):
            found = type(x_adv).__name__ if shape is None else f"{x_adv.dtype} {list(shape)}"
            raise InputError(
                f"attack {name!r} returned {found}: it must return images as floats, "
                f"{list(x.shape)} like x"
            )
        return jnp.asarray(x_adv, x.dtype)

    return OneRun(play, OWN_COST, norms=NORMS)


def _parts(
    name: str, budget: Budget, learned: Callable[[str], Part] | None, extra: Mapping[str, Callable]
) -> tuple[Part, ...]:
    if name in extra:
        return (own_attack(name, extra[name]),)
    official = name.replace("_", "-")
    if name in PRESETS:
        return PRESETS[name]
    if name in AUTO:
        return (AutoAttackParts(VERSIONS[AUTO[name]], budget),)
    if official in PARTS:
        return (AutoAttackParts((official,), budget),)
    if name == "cw100":
        return (OneRun(_cw_margin, 3.0 * CW_STEPS, norms=NORMS),)
    if name == "cw_strict":
        return (OneRun(partial(cw_strict, steps=budget.cw_steps), 3.0 * budget.cw_steps),)
    kind, colon, workdir = name.partition(":")
    if kind == "learned" and colon and learned is not None:
        return (learned(workdir),)
    match = _PGM.fullmatch(name)
    if match is None:
        raise InputError(
            nearest("attack", name, [*FORMS, *extra, *["learned:WORKDIR"] * bool(learned)])
        )
    steps, loss = int(match["steps"]), match["loss"] or "ce"
    # The KL to the clean output has no gradient at the clean image itself.
    start = "zero" if match["restarts"] is None and loss != "kl" else "uniform"
    step = 1 / 3 if steps <= 10 else 2.5 / steps
    return (Pgm(steps, step, start, loss, int(match["restarts"] or 1)),)


def check_attack(attack: object) -> None:
    """An InputError unless it is an `Attack`, as `parse` makes one of a name."""
    if not isinstance(attack, Attack):
        given = repr(attack) if isinstance(attack, str) else f"a {type(attack).__name__}"
        raise InputError(f"the attack is {given}: pass attacks.parse('pgm10')")


def parse(
    name: str,
    *,
    budget: Budget = OFFICIAL,
    learned: Callable[[str], Part] | None = None,
    extra: Mapping[str, Callable] = MappingProxyType({}),
) -> Attack:
    """The attack of that name, or an InputError that says the nearest one.

    `learned` finds the attacker of a workdir; without it `learned:` is no attack. `extra` has the
    user's own attacks by their names: functions (rng, f, x, y, *, eps, norm) -> x_adv.
    """
    names = name.split("+")
    parts = tuple((word, part) for word in names for part in _parts(word, budget, learned, extra))
    if len({part.eps for _, part in parts}) > 1:
        raise InputError(f"attack {name!r} joins runs of different radii")
    return Attack(name, parts, bounds="autoattack" if name == "autoattack_quick" else None)


Attacks = str | Attack | Callable | Iterable[str | Attack | Callable]
"""Names joined by commas, or a list of names, attacks and functions of one's own."""


def parse_all(
    attacks: Attacks,
    *,
    budget: Budget = OFFICIAL,
    learned: Callable[[str], Part] | None = None,
    extra: Mapping[str, Callable] = MappingProxyType({}),
) -> list[Attack]:
    """Every attack of a text of names joined by commas, or of a list; no name may occur twice."""
    if isinstance(attacks, str):
        attacks = [name.strip() for name in attacks.split(",") if name.strip()]
    listed = [attacks] if isinstance(attacks, Attack) or callable(attacks) else list(attacks)
    found = []
    for attack in listed:
        if isinstance(attack, str):
            attack = parse(attack, budget=budget, learned=learned, extra=extra)
        elif callable(attack):
            name = getattr(attack, "__name__", type(attack).__name__)
            attack = Attack(name, ((name, own_attack(name, attack)),))
        elif not isinstance(attack, Attack):
            raise InputError(f"an attack is a name, an Attack or a function, not {attack!r}")
        if attack.name in (other.name for other in found):
            raise InputError(f"attack {attack.name!r} is named twice")
        found.append(attack)
    if not found:
        raise InputError("no attack named; try clean,fgsm,pgm10,pgm100x5")
    return found
