"""The methods with phi: theta descends while a learned attacker or optimiser ascends."""

from typing import Annotated, Any, Literal

from l2ljax import losses, solvers
from l2ljax.attacker_input import GradNorm, image_alone, image_and_gradient
from l2ljax.methods.hand_made import Climbed, InnerStep, InnerSteps, Smoothing, Start, TradesBeta
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers.networks import interpolated, toward_partner
from l2ljax.types import Method, Solver, TrainLoss

Order = Annotated[Literal["simultaneous", "alternating"], "Algorithm 2 | the authors' code"]
Norm = Annotated[GradNorm, "scaling of the gradient the attacker sees"]
Share = Annotated[float, "adversarial interpolation: share of the label taken away", "[0, 1]"]


def _learning(solver: Solver, attack_loss: str, train_loss: TrainLoss, order: Any) -> Method:
    return Method(solver, losses.ATTACK_LOSSES[attack_loss], train_loss, learns=True, order=order)


def _l2l(attacker: Any, steps: int, grad_norm: GradNorm, start: str) -> Solver:
    return solvers.l2l(attacker, image_and_gradient(grad_norm), steps=steps, start=start)


def naive_l2l(attacker: Any, *, order: Order, label_smoothing: Smoothing) -> Method:
    """Attacker sees the image alone: the paper's negative control."""
    solver = solvers.l2l(attacker, image_alone, steps=1, start="zero")
    return _learning(solver, "ce", losses.adversarial(label_smoothing), order)


def grad_l2l(
    attacker: Any,
    *,
    order: Order,
    attacker_start: Start,
    grad_norm: Norm,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """Attacker sees image and gradient."""
    solver = _l2l(attacker, 1, grad_norm, attacker_start)
    return _learning(solver, attack_loss, losses.adversarial(label_smoothing), order)


def two_step_l2l(
    attacker: Any,
    *,
    order: Order,
    attacker_start: Start,
    grad_norm: Norm,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """The paper's recurrence of length two."""
    solver = _l2l(attacker, 2, grad_norm, attacker_start)
    return _learning(solver, attack_loss, losses.adversarial(label_smoothing), order)


def multistep_l2l(
    attacker: Any,
    *,
    order: Order,
    inner_steps: InnerSteps,
    attacker_start: Start,
    grad_norm: Norm,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """The same recurrence, K steps."""
    solver = _l2l(attacker, inner_steps, grad_norm, attacker_start)
    return _learning(solver, attack_loss, losses.adversarial(label_smoothing), order)


def kstep_l2l(
    attacker: Any,
    *,
    order: Order,
    inner_steps: InnerSteps,
    inner_step: InnerStep,
    attacker_start: Start,
    grad_norm: Norm,
    attack_loss: Climbed,
    label_smoothing: Smoothing,
) -> Method:
    """The authors' other recurrence, K small steps."""
    how = {"steps": inner_steps, "step_size": inner_step, "start": attacker_start}
    solver = solvers.kstep_l2l(attacker, image_and_gradient(grad_norm), **how)
    return _learning(solver, attack_loss, losses.adversarial(label_smoothing), order)


def grad_l2l_trades(
    attacker: Any,
    *,
    order: Order,
    attacker_start: Start,
    grad_norm: Norm,
    attack_loss: Climbed,
    trades_beta: TradesBeta,
    label_smoothing: Smoothing,
) -> Method:
    """Grad L2L with the loss of TRADES."""
    solver = _l2l(attacker, 1, grad_norm, attacker_start)
    return _learning(solver, attack_loss, losses.trades(trades_beta, label_smoothing), order)


def two_step_l2l_trades(
    attacker: Any,
    *,
    order: Order,
    attacker_start: Start,
    grad_norm: Norm,
    attack_loss: Climbed,
    trades_beta: TradesBeta,
    label_smoothing: Smoothing,
) -> Method:
    """2-Step L2L with the loss of TRADES."""
    solver = _l2l(attacker, 2, grad_norm, attacker_start)
    return _learning(solver, attack_loss, losses.trades(trades_beta, label_smoothing), order)


def _interp(
    attacker: Any, steps: int, order: Any, grad_norm: GradNorm, share: float, smoothing: float
) -> Method:
    solver = solvers.interp(attacker, image_and_gradient(grad_norm), steps=steps)
    train_loss = interpolated(share, smoothing)
    return Method(solver, toward_partner, train_loss, learns=True, order=order, paired=True)


def grad_l2l_interp(
    attacker: Any, *, order: Order, grad_norm: Norm, interp_label: Share, label_smoothing: Smoothing
) -> Method:
    """L2L on adversarial interpolation, one step."""
    return _interp(attacker, 1, order, grad_norm, interp_label, label_smoothing)


def two_step_l2l_interp(
    attacker: Any, *, order: Order, grad_norm: Norm, interp_label: Share, label_smoothing: Smoothing
) -> Method:
    """L2L on adversarial interpolation, two steps."""
    return _interp(attacker, 2, order, grad_norm, interp_label, label_smoothing)


Hidden = Annotated[int, "RNN optimiser: size of the LSTM's state", "> 0"]
Preprocess = Annotated[
    Literal["sign_log", "sign", "batch_max", "none"],
    "RNN optimiser: what it sees of the gradient",
]
Weights = Annotated[
    Literal["ones", "last", "increment"], "RNN optimiser: weights of the losses on the way"
]
LearnedStep = Annotated[bool, "RNN optimiser: learns the step too, not the direction alone"]
Bound = Annotated[float, "RNN optimiser: the largest learned step in radii", "> 0"]
Remat = Annotated[bool, "keep less for the backward pass: residual blocks, the RNN's inner loop"]


def rnn_adv(
    *,
    order: Order,
    inner_steps: InnerSteps,
    attacker_start: Start,
    attack_loss: Climbed,
    rnn_hidden: Hidden,
    rnn_input: Preprocess,
    rnn_weights: Weights,
    rnn_learned_step: LearnedStep,
    rnn_bound: Bound,
    remat: Remat,
    label_smoothing: Smoothing,
) -> Method:
    """A learned recurrent optimiser takes the inner steps."""
    solver = solvers.rnn(
        CoordinateLSTM(rnn_hidden),
        steps=inner_steps,
        start=attacker_start,
        preprocess=rnn_input,
        weights=rnn_weights,
        learned_step=rnn_learned_step,
        bound=rnn_bound,
        remat=remat,
    )
    return _learning(solver, attack_loss, losses.adversarial(label_smoothing), order)


def rnn_trades(
    *,
    order: Order,
    inner_steps: InnerSteps,
    attacker_start: Start,
    attack_loss: Climbed,
    rnn_hidden: Hidden,
    rnn_input: Preprocess,
    rnn_weights: Weights,
    rnn_learned_step: LearnedStep,
    rnn_bound: Bound,
    remat: Remat,
    trades_beta: TradesBeta,
    label_smoothing: Smoothing,
) -> Method:
    """The same with the loss of TRADES."""
    adversarial = rnn_adv(
        order=order,
        inner_steps=inner_steps,
        attacker_start=attacker_start,
        attack_loss=attack_loss,
        rnn_hidden=rnn_hidden,
        rnn_input=rnn_input,
        rnn_weights=rnn_weights,
        rnn_learned_step=rnn_learned_step,
        rnn_bound=rnn_bound,
        remat=remat,
        label_smoothing=label_smoothing,
    )
    return adversarial._replace(train_loss=losses.trades(trades_beta, label_smoothing))
