"""The methods without phi, and the settings that several methods share.

A method is a function whose keywords are its settings, each annotated with its help text and its
bounds; the first line of its docstring is what --help shows. No number has a default here.
"""

from typing import Annotated, Literal

from l2ljax import losses, solvers
from l2ljax.ball import Radii
from l2ljax.settings import Fraction
from l2ljax.solvers.implicit import two_terms
from l2ljax.types import Method, Solver

InnerSteps = Annotated[int, "steps T or K of the inner problem", "> 0"]
InnerStep = Annotated[
    float | Radii,
    "size of a step on the [0, 1] scale; 1.25eps is in radii, which follow --eps_warmup",
    "> 0",
]
Start = Annotated[Literal["zero", "uniform", "gaussian"], "where the inner problem starts"]
Climbed = Annotated[
    Literal["ce", "kl", "margin", "hinge"], "the loss whose gradient the inner problem uses"
]
CleanMix = Annotated[bool, "fgsm and pgm: train on clean and attacked images in equal parts"]
TradesBeta = Annotated[float, "TRADES: weight of the KL to the attacked image", ">= 0"]
Smoothing = Annotated[float, "share of the label spread over all classes", "[0, 1)"]


def plain(*, label_smoothing: Smoothing) -> Method:
    """No attack: min CE(x)."""
    train_loss = losses.clean(label_smoothing)
    return Method(solvers.none(), losses.ATTACK_LOSSES["ce"], train_loss, selects="clean")


def _attacked(solver: Solver, attack_loss: str, label_smoothing: float, mix: bool = False):
    train_loss = (
        losses.clean_mix(1.0, label_smoothing) if mix else losses.adversarial(label_smoothing)
    )
    return Method(solver, losses.ATTACK_LOSSES[attack_loss], train_loss)


def fgsm(*, attack_loss: Climbed, clean_mix: CleanMix, label_smoothing: Smoothing) -> Method:
    """FGSM training, half clean."""
    return _attacked(solvers.fgsm(), attack_loss, label_smoothing, clean_mix)


def pgm(
    *,
    inner_steps: InnerSteps,
    inner_step: InnerStep,
    attacker_start: Start,
    attack_loss: Climbed,
    clean_mix: CleanMix,
    label_smoothing: Smoothing,
) -> Method:
    """PGM training (the paper's PGM Net), half clean."""
    solver = solvers.pgm(inner_steps, inner_step, attacker_start)
    return _attacked(solver, attack_loss, label_smoothing, clean_mix)


def trades(
    *,
    inner_steps: InnerSteps,
    inner_step: InnerStep,
    attacker_start: Start,
    attack_loss: Climbed,
    trades_beta: TradesBeta,
    label_smoothing: Smoothing,
) -> Method:
    """TRADES: clean loss and the KL to the attacked image."""
    solver = solvers.pgm(inner_steps, inner_step, attacker_start)
    train_loss = losses.trades(trades_beta, label_smoothing)
    return Method(solver, losses.ATTACK_LOSSES[attack_loss], train_loss)


def fast_bat(
    *,
    bat_point: Annotated[
        Literal["random", "fgsm", "pgd", "ns_pgd", "ns_gd", "ns_pgd_zero"],
        "Fast-BAT: where the lower level is made linear",
    ],
    bat_step: Annotated[
        Fraction, "Fast-BAT: attack step a per unit of the gradient (1 / lambda)", "> 0"
    ],
    bat_lambda: Annotated[
        float, "Fast-BAT: lambda of the implicit gradient; 0 is 1 / bat_step", ">= 0"
    ],
    bat_mixed: Annotated[
        Literal["z", "delta"], "Fast-BAT: point of the mixed derivative, z | delta"
    ],
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """Fast-BAT: theta also learns through delta."""
    solver = solvers.fast_bat(bat_point, bat_step, bat_lambda or 1 / bat_step, bat_mixed)
    return _attacked(solver, attack_loss, label_smoothing)._replace(probe=two_terms)


def fast_at(
    *,
    inner_step: InnerStep,
    attacker_start: Start,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """One sign step from a random start (FGSM-RS)."""
    return _attacked(solvers.pgm(1, inner_step, attacker_start), attack_loss, label_smoothing)


def n_fgsm(
    *,
    noise: Annotated[float, "N-FGSM: half-width of the noise in radii", ">= 0"],
    inner_step: InnerStep,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """One sign step from strong noise, not cut to the ball."""
    return _attacked(solvers.n_fgsm(noise, inner_step), attack_loss, label_smoothing)


def grad_align(
    *,
    ga_lambda: Annotated[
        float, "GradAlign: weight of the penalty; on CIFAR its authors' rule", ">= 0"
    ],
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """FGSM training that aligns the gradients within the ball."""
    train_loss = losses.grad_align(ga_lambda, label_smoothing)
    return Method(solvers.fgsm(), losses.ATTACK_LOSSES[attack_loss], train_loss)


def pgd2(
    *,
    inner_step: InnerStep,
    attacker_start: Start,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """Two PGD steps, attacked images only."""
    return _attacked(solvers.pgm(2, inner_step, attacker_start), attack_loss, label_smoothing)


def pgd10(
    *,
    inner_step: InnerStep,
    attacker_start: Start,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """Ten PGD steps, attacked images only (Madry et al.)."""
    return _attacked(solvers.pgm(10, inner_step, attacker_start), attack_loss, label_smoothing)


def apgd10(*, attacker_start: Start, attack_loss: Climbed, label_smoothing: Smoothing) -> Method:
    """Ten steps of Auto-PGD, attacked images only."""
    return _attacked(solvers.apgd(10, attacker_start), attack_loss, label_smoothing)
