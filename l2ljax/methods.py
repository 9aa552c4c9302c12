"""METHODS: one row per method. A new method is one solver file and one row here.

A row lists the settings it takes and no others; `make_method` wants each of them, and no number
has a default here. `s.attacker` is the Flax module g, `s.A` what it sees.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from l2ljax import solvers
from l2ljax.attacker_input import image_and_gradient
from l2ljax.ball import Radii
from l2ljax.bilevel import ORDERS
from l2ljax.errors import InputError, word
from l2ljax.gate import check_count, check_positive
from l2ljax.grad_align import grad_align
from l2ljax.interpolation import interpolated, toward_partner
from l2ljax.losses import ATTACK_LOSSES, TrainLoss, adversarial, clean, clean_mix, trades
from l2ljax.models import CoordinateLSTM
from l2ljax.two_terms import two_terms
from l2ljax.types import Array, Ell, Method, Solver


def _adversarial(s: Any) -> TrainLoss:
    return adversarial(s.smoothing)


def _mixed(s: Any) -> TrainLoss:
    return clean_mix(1.0, s.smoothing) if s.clean_mix else adversarial(s.smoothing)


def _trades(s: Any) -> TrainLoss:
    return trades(s.trades_beta, s.smoothing)


def _interpolated(s: Any) -> TrainLoss:
    return interpolated(s.interp_label, s.smoothing, s.axis_name)


def _toward_partner(s: Any) -> Callable[..., Ell]:
    return partial(toward_partner, axis_name=s.axis_name)


class Row(NamedTuple):
    """solver, train_loss, attack_loss: of the settings, those in `takes` and what all rows share.

    network: whether g is one of the attackers that see whole images; the RNN rows bring their own.
    paired: whether an image's attack depends on another one of its batch.
    selects: the validation accuracy by which a run's best epoch is chosen.
    """

    solver: Callable[[Any], Solver]
    takes: tuple[str, ...] = ()
    train_loss: Callable[[Any], TrainLoss] = _adversarial
    attack_loss: Callable[[Any], Callable[..., Ell]] = lambda s: ATTACK_LOSSES[s.attack_loss]
    learns: bool = False
    network: bool = False
    paired: bool = False
    selects: Literal["robust", "clean"] = "robust"
    probe: Callable[..., Callable[..., dict[str, Array]]] | None = None
    what: str = ""


_STEPS = ("inner_steps", "inner_step", "attacker_start", "attack_loss")
_GRADIENT = ("attacker_start", "grad_norm", "attack_loss")
_RNN = (
    "inner_steps",
    "attacker_start",
    "attack_loss",
    "rnn_hidden",
    "rnn_input",
    "rnn_weights",
    "rnn_learned_step",
    "rnn_bound",
)


def _rnn(s: Any) -> Solver:
    return solvers.rnn(
        CoordinateLSTM(s.rnn_hidden),
        s.rnn_input,
        s.inner_steps,
        s.attacker_start,
        s.rnn_weights,
        s.remat,
        s.rnn_learned_step,
        s.rnn_bound,
        s.axis_name,
    )


G: dict[str, Any] = {"learns": True, "network": True}

METHODS: dict[str, Row] = {
    "plain": Row(
        lambda s: solvers.none(),
        train_loss=lambda s: clean(s.smoothing),
        attack_loss=lambda s: ATTACK_LOSSES["ce"],
        selects="clean",
        what="no attack: min CE(x)",
    ),
    "fgsm": Row(
        lambda s: solvers.fgsm(),
        ("attack_loss", "clean_mix"),
        _mixed,
        what="FGSM training, half clean",
    ),
    "pgm": Row(
        lambda s: solvers.pgm(s.inner_steps, s.inner_step, s.attacker_start),
        (*_STEPS, "clean_mix"),
        _mixed,
        what="PGM training (the paper's PGM Net), half clean",
    ),
    "naive_l2l": Row(
        lambda s: solvers.naive_l2l(s.attacker),
        attack_loss=lambda s: ATTACK_LOSSES["ce"],
        **G,
        what="attacker sees the image alone",
    ),
    "grad_l2l": Row(
        lambda s: solvers.grad_l2l(s.attacker, s.A, s.attacker_start),
        _GRADIENT,
        **G,
        what="attacker sees image and gradient",
    ),
    "two_step_l2l": Row(
        lambda s: solvers.multistep_l2l(s.attacker, s.A, s.attacker_start, 2),
        _GRADIENT,
        **G,
        what="the paper's recurrence of length two",
    ),
    "multistep_l2l": Row(
        lambda s: solvers.multistep_l2l(s.attacker, s.A, s.attacker_start, s.inner_steps),
        (*_GRADIENT, "inner_steps"),
        **G,
        what="the same recurrence, K steps",
    ),
    "kstep_l2l": Row(
        lambda s: solvers.kstep_l2l(s.attacker, s.A, s.attacker_start, s.inner_steps, s.inner_step),
        (*_GRADIENT, "inner_steps", "inner_step"),
        **G,
        what="the authors' other recurrence, K small steps",
    ),
    "grad_l2l_trades": Row(
        lambda s: solvers.grad_l2l(s.attacker, s.A, s.attacker_start),
        (*_GRADIENT, "trades_beta"),
        _trades,
        **G,
        what="Grad L2L with the loss of TRADES",
    ),
    "two_step_l2l_trades": Row(
        lambda s: solvers.multistep_l2l(s.attacker, s.A, s.attacker_start, 2),
        (*_GRADIENT, "trades_beta"),
        _trades,
        **G,
        what="2-Step L2L with the loss of TRADES",
    ),
    "grad_l2l_interp": Row(
        lambda s: solvers.interp(s.attacker, s.A, 1),
        ("grad_norm", "interp_label"),
        _interpolated,
        attack_loss=_toward_partner,
        **G,
        paired=True,
        what="L2L on adversarial interpolation, one step",
    ),
    "two_step_l2l_interp": Row(
        lambda s: solvers.interp(s.attacker, s.A, 2),
        ("grad_norm", "interp_label"),
        _interpolated,
        attack_loss=_toward_partner,
        **G,
        paired=True,
        what="L2L on adversarial interpolation, two steps",
    ),
    "rnn_adv": Row(
        _rnn,
        _RNN,
        learns=True,
        what="a learned recurrent optimiser takes the inner steps",
    ),
    "rnn_trades": Row(
        _rnn,
        (*_RNN, "trades_beta"),
        _trades,
        learns=True,
        what="the same with the loss of TRADES",
    ),
    "trades": Row(
        lambda s: solvers.pgm(s.inner_steps, s.inner_step, s.attacker_start),
        (*_STEPS, "trades_beta"),
        _trades,
        what="TRADES: clean loss and the KL to the attacked image",
    ),
    "fast_bat": Row(
        lambda s: solvers.fast_bat(s.bat_point, s.bat_step, s.bat_lambda, s.bat_mixed),
        ("bat_point", "bat_step", "bat_lambda", "bat_mixed", "attack_loss"),
        probe=two_terms,
        what="Fast-BAT: theta also learns through delta",
    ),
    "fast_at": Row(
        lambda s: solvers.pgm(1, s.inner_step, s.attacker_start),
        ("inner_step", "attacker_start", "attack_loss"),
        what="one sign step from a random start (FGSM-RS)",
    ),
    "n_fgsm": Row(
        lambda s: solvers.n_fgsm(s.noise, s.inner_step),
        ("noise", "inner_step", "attack_loss"),
        what="one sign step from strong noise, not cut to the ball",
    ),
    "grad_align": Row(
        lambda s: solvers.fgsm(),
        ("ga_lambda", "attack_loss"),
        lambda s: grad_align(s.ga_lambda, s.smoothing),
        what="FGSM training that aligns the gradients within the ball",
    ),
    "pgd2": Row(
        lambda s: solvers.pgm(2, s.inner_step, s.attacker_start),
        ("inner_step", "attacker_start", "attack_loss"),
        what="two PGD steps, attacked images only",
    ),
    "pgd10": Row(
        lambda s: solvers.pgm(10, s.inner_step, s.attacker_start),
        ("inner_step", "attacker_start", "attack_loss"),
        what="ten PGD steps, attacked images only (Madry et al.)",
    ),
    "apgd10": Row(
        lambda s: solvers.apgd(10, s.attacker_start),
        ("attacker_start", "attack_loss"),
        what="ten steps of Auto-PGD, attacked images only",
    ),
}


def make_method(
    name: str,
    *,
    order: Literal["simultaneous", "alternating"],
    smoothing: float,
    attacker: Any = None,
    axis_name: str | None = None,
    remat: bool = False,
    **settings: Any,
) -> Method:
    """The row `name` made concrete; `settings` are those that `METHODS[name].takes` lists.

    With `remat` an inner loop that phi learns through is computed twice, to hold less memory.
    """
    word("method", name, METHODS)
    word("order", order, ORDERS)
    row = METHODS[name]
    for setting in settings:
        word(f"setting of {name}", setting, row.takes)
    lacking = [setting for setting in row.takes if setting not in settings]
    lacking += ["attacker"] if row.network and attacker is None else []
    if lacking:
        raise InputError(f"method {name} needs {', '.join(lacking)}")
    _check_numbers(settings | {"smoothing": smoothing})
    if "attack_loss" in row.takes:
        word("attack_loss", settings["attack_loss"], ATTACK_LOSSES)
    shared = {"attacker": attacker, "smoothing": smoothing, "axis_name": axis_name, "remat": remat}
    s = SimpleNamespace(**settings, **shared)
    if "grad_norm" in row.takes:
        s.A = image_and_gradient(s.grad_norm, axis_name)
    solver = row.solver(s)
    if settings.get("attack_loss") == "kl" and solver.begins_at_x:
        raise InputError(
            f"attack_loss 'kl' has no gradient at x itself, where {name} takes its first one: "
            f"{_elsewhere(row)}"
        )
    return Method(solver, row.attack_loss(s), row.train_loss(s), row.learns, order, row.probe)


def _check_numbers(settings: dict[str, Any]) -> None:
    """An InputError where a count is no count, a step no length, clean_mix no bool."""
    for name in {"inner_steps", "rnn_hidden"} & settings.keys():
        check_count(name, settings[name])
    for name in {"inner_step", "bat_step"} & settings.keys():
        step = settings[name]
        check_positive(name, step.number if isinstance(step, Radii) else step)
    if "clean_mix" in settings:
        word("clean_mix", settings["clean_mix"], (False, True))
    alpha = settings["smoothing"]
    if not isinstance(alpha, (int, float)) or not 0 <= alpha < 1:
        raise InputError(f"smoothing={alpha!r} must be a number in [0, 1)")


def _elsewhere(row: Row) -> str:
    """The setting by which the method's first gradient is taken elsewhere than at x."""
    if "attacker_start" in row.takes:
        return "take attacker_start gaussian or uniform"
    if "bat_point" in row.takes:
        return "take bat_point random, pgd, ns_pgd or ns_gd"
    if "noise" in row.takes:
        return "take noise above 0"
    return "take another attack_loss"


def takers(setting: str) -> list[str]:
    """The methods that take a setting."""
    return [name for name, row in METHODS.items() if setting in row.takes]
