"""METHODS: one row per method. A new method is one solver file and one row here."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from l2ljax import solvers
from l2ljax.attacker_input import AttackerInput, GradNorm, image_and_gradient
from l2ljax.losses import ATTACK_LOSSES, TrainLoss, adversarial, clean, clean_mix
from l2ljax.names import nearest
from l2ljax.types import Method, Solver

mixed = partial(clean_mix, 1.0)


class Settings(NamedTuple):
    """What the rows are built from; no number has a default here."""

    attacker: Any
    A: AttackerInput
    start: str
    inner_steps: int
    step_size: float


class Row(NamedTuple):
    """solver: Settings -> Solver; inner_steps, start: the row's defaults (None: it has none).

    selects: the validation accuracy by which a run's best epoch is chosen.
    """

    solver: Callable[[Settings], Solver]
    train_loss: Callable[[float], TrainLoss] = adversarial
    learns: bool = False
    inner_steps: int | None = None
    start: str | None = None
    selects: Literal["robust", "clean"] = "robust"
    what: str = ""


METHODS: dict[str, Row] = {
    "plain": Row(
        lambda s: solvers.none(),
        clean,
        selects="clean",
        what="no attack: min CE(x)",
    ),
    "fgsm": Row(
        lambda s: solvers.fgsm(),
        mixed,
        what="FGSM training, half clean",
    ),
    "pgm": Row(
        lambda s: solvers.pgm(s.inner_steps, s.step_size, s.start),
        mixed,
        inner_steps=10,
        start="zero",
        what="PGM training (the paper's PGM Net), half clean",
    ),
    "naive_l2l": Row(
        lambda s: solvers.naive_l2l(s.attacker),
        learns=True,
        what="attacker sees the image alone",
    ),
    "grad_l2l": Row(
        lambda s: solvers.grad_l2l(s.attacker, s.A, s.start),
        learns=True,
        start="zero",
        what="attacker sees image and gradient",
    ),
    "two_step_l2l": Row(
        lambda s: solvers.two_step_l2l(s.attacker, s.A, s.start),
        learns=True,
        start="zero",
        what="the paper's recurrence of length two",
    ),
    "multistep_l2l": Row(
        lambda s: solvers.multistep_l2l(s.attacker, s.A, s.start, s.inner_steps),
        learns=True,
        inner_steps=3,
        start="zero",
        what="the same recurrence, K steps",
    ),
    "kstep_l2l": Row(
        lambda s: solvers.kstep_l2l(s.attacker, s.A, s.start, s.inner_steps, s.step_size),
        learns=True,
        inner_steps=10,
        start="zero",
        what="the authors' other recurrence, K small steps",
    ),
}


def make_method(
    name: str,
    *,
    attacker: Any,
    inner_steps: int,
    step_size: float,
    start: str,
    grad_norm: GradNorm,
    attack_loss: str,
    mix: bool,
    smoothing: float,
    order: Literal["simultaneous", "alternating"],
    axis_name: str | None = None,
) -> Method:
    """The row `name` made concrete. `attacker` is the Flax module g (None where nothing learns)."""
    if name not in METHODS:
        raise ValueError(nearest("method", name, METHODS))
    row = METHODS[name]
    A = image_and_gradient(grad_norm, axis_name)
    settings = Settings(attacker, A, start, inner_steps, step_size)
    loss = adversarial if row.train_loss is mixed and not mix else row.train_loss
    solver = row.solver(settings)
    return Method(solver, ATTACK_LOSSES[attack_loss], loss(smoothing), row.learns, order)
