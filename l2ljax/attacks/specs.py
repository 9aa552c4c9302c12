"""Attacks by name: `clean`, `fgsm`, `pgm10`, `pgm100x5`, `pgm10_margin`, the presets, and unions.

    pgmT        zero start, step eps/3 for T <= 10 and 2.5 eps/T above (the paper: 0.01 at 0.03)
    pgmTxR      uniform start, R restarts, the worst of them for every image
    ..._margin  the same with the margin loss in place of cross-entropy
    a+b         the worst of a and b for every image
    selection   pgm10+pgm10_margin, by which training selects its checkpoint

A preset that names its protocol's radius (papers.md 4.6) is run at that radius.
"""

import re
from typing import NamedTuple

from l2ljax.names import nearest


class Run(NamedTuple):
    """Runs of PGM on every image that still stands; eps None: the evaluation's own radius."""

    steps: int
    step: float
    start: str
    loss: str = "ce"
    restarts: int = 1
    eps: float | None = None
    relative: bool = True

    def step_size(self, eps: float) -> float:
        """The step on the [0, 1] scale."""
        return self.step * eps if self.relative else self.step


class Attack(NamedTuple):
    """A name and its runs; no run at all is the clean accuracy."""

    name: str
    runs: tuple[Run, ...]

    def radius(self, eps: float) -> float:
        """The radius this attack uses when the evaluation is at eps."""
        return self.runs[0].eps or eps if self.runs else 0.0


PRESETS: dict[str, tuple[Run, ...]] = {
    "clean": (),
    "fgsm": (Run(1, 1.0, "zero"),),
    # What a checkpoint is selected by: either loss alone can be fooled.
    "selection": (Run(10, 1 / 3, "zero"), Run(10, 1 / 3, "zero", "margin")),
    "pgm10_v1": (Run(10, 0.01, "zero", eps=0.03, relative=False),),
    "pgd10_l2l": (Run(10, 0.003, "uniform", eps=0.031, relative=False),),
    "pgd20_l2l": (Run(20, 0.003, "uniform", eps=0.031, relative=False),),
    "pgd100_l2l": (Run(100, 0.003, "uniform", eps=0.031, relative=False),),
    "pgd50_10": (Run(50, 0.25, "uniform", restarts=10),),
    "pgd20_madry": (Run(20, 2 / 255, "uniform", eps=8 / 255, relative=False),),
}

_PGM = re.compile(r"pgm(?P<steps>[1-9]\d*)(x(?P<restarts>[1-9]\d*))?(?P<margin>_margin)?")


def parse(name: str) -> Attack:
    """The attack of that name, or a ValueError that says the nearest one."""
    runs: list[Run] = []
    for part in name.split("+"):
        if part in PRESETS:
            runs += PRESETS[part]
            continue
        match = _PGM.fullmatch(part)
        if match is None:
            raise ValueError(
                nearest("attack", part, [*PRESETS, "pgm10", "pgm100x5", "pgm10_margin"])
            )
        steps = int(match["steps"])
        step = 1 / 3 if steps <= 10 else 2.5 / steps
        start = "zero" if match["restarts"] is None else "uniform"
        loss = "margin" if match["margin"] else "ce"
        runs.append(Run(steps, step, start, loss, int(match["restarts"] or 1)))
    if len({run.eps for run in runs}) > 1:
        raise ValueError(f"attack {name!r} joins runs of different radii")
    return Attack(name, tuple(runs))


def parse_all(names: str) -> list[Attack]:
    """A comma-separated list of attacks."""
    attacks = [parse(name.strip()) for name in names.split(",") if name.strip()]
    if not attacks:
        raise ValueError("no attack named; try clean,fgsm,pgm10,pgm100x5")
    return attacks
