"""TEMPORARY: today's core behind tomorrow's names."""
# ruff: noqa

import inspect
from typing import Annotated, Literal

import l2ljax.data as data_
from l2ljax import methods as old
from l2ljax.attacker_input import GRAD_NORMS
from l2ljax.ball import STARTS, Radii
from l2ljax.functional import functional, initialise
from l2ljax.losses import ATTACK_LOSSES
from l2ljax.models import (
    make_attacker as old_attacker,
)
from l2ljax.models import (
    make_classifier as old_classifier,
)
from l2ljax.solvers.fast_bat import MIXED_AT, POINTS
from l2ljax.solvers.rnn import PREPROCESS, WEIGHTS
from l2ljax.types import Method
from l2ljax.parallel import ONE as ONE_DEVICE  # noqa

L = lambda words: Literal[tuple(words)]
ROWS = {
    "order": (L(("simultaneous", "alternating")), "Algorithm 2 | the authors' code", ""),
    "inner_steps": (int, "steps T or K of the inner problem", "> 0"),
    "inner_step": (
        float | Radii,
        "size of a step on the [0, 1] scale; 1.25eps is in radii, which follow --eps_warmup",
        "> 0",
    ),
    "attacker_start": (L(STARTS), "where the inner problem starts", ""),
    "grad_norm": (L(GRAD_NORMS), "scaling of the gradient the attacker sees", ""),
    "attack_loss": (L(ATTACK_LOSSES), "the loss whose gradient the inner problem uses", ""),
    "clean_mix": (bool, "fgsm and pgm: train on clean and attacked images in equal parts", ""),
    "trades_beta": (float, "TRADES: weight of the KL to the attacked image", ">= 0"),
    "interp_label": (float, "adversarial interpolation: share of the label taken away", "[0, 1]"),
    "rnn_hidden": (int, "RNN optimiser: size of the LSTM's state", "> 0"),
    "rnn_input": (L(PREPROCESS), "RNN optimiser: what it sees of the gradient", ""),
    "rnn_weights": (L(WEIGHTS), "RNN optimiser: weights of the losses on the way", ""),
    "rnn_learned_step": (bool, "RNN optimiser: learns the step too, not the direction alone", ""),
    "rnn_bound": (float, "RNN optimiser: the largest learned step in radii", "> 0"),
    "bat_point": (L(POINTS), "Fast-BAT: where the lower level is made linear", ""),
    "bat_step": (
        float | Radii,
        "Fast-BAT: attack step a per unit of the gradient (1 / lambda)",
        "> 0",
    ),
    "bat_lambda": (float, "Fast-BAT: lambda of the implicit gradient; 0 is 1 / bat_step", ">= 0"),
    "bat_mixed": (L(MIXED_AT), "Fast-BAT: point of the mixed derivative, z | delta", ""),
    "noise": (float, "N-FGSM: half-width of the noise in radii", ">= 0"),
    "ga_lambda": (float, "GradAlign: weight of the penalty; on CIFAR its authors' rule", ">= 0"),
    "label_smoothing": (float, "share of the label spread over all classes", "[0, 1)"),
    "remat": (bool, "keep less for the backward pass: residual blocks, the RNN's loop", ""),
}


class M(Method):
    pass


def _build(name, row):
    takes = (
        *row.takes,
        "label_smoothing",
        *(("order",) if row.learns else ()),
        *(("remat",) if name.startswith("rnn") else ()),
    )

    def fn(attacker=None, axis_name=None, **s):
        s = dict(s)
        m = old.make_method(
            name,
            order=s.pop("order", "simultaneous"),
            smoothing=s.pop("label_smoothing"),
            attacker=attacker,
            axis_name=axis_name,
            remat=s.pop("remat", False),
            **s,
        )
        out = M(*m)
        out.selects, out.paired = row.selects, row.paired
        return out

    fn.__name__ = name
    fn.__doc__ = row.what
    fn.network = row.network
    K = inspect.Parameter
    fn.__signature__ = inspect.Signature(
        ([K("attacker", K.POSITIONAL_OR_KEYWORD)] if row.network else [])
        + [K(n, K.KEYWORD_ONLY) for n in takes]
    )
    fn.__annotations__ = {n: Annotated[ROWS[n]] for n in takes}
    return fn


METHODS = {n: _build(n, r) for n, r in old.METHODS.items()}


def takes_attacker(fn):
    return "attacker" in inspect.signature(fn).parameters


def make_method(fn, *, attacker=None, axis_name=None, **settings):
    if takes_attacker(fn):
        settings["attacker"] = attacker
    if getattr(fn, "__module__", "") == __name__:
        settings["axis_name"] = axis_name
    return fn(**settings)


def make_classifier(made, num_classes, *, shape, key, **rest):
    if isinstance(made, str):
        return old_classifier(made, num_classes, **rest)
    takes = inspect.signature(made).parameters
    return made(**{k: v for k, v in {"num_classes": num_classes, **rest}.items() if k in takes})


def make_attacker(name, *a, **k):
    return old_attacker(name, *a, **k)


def as_apply(model, key, x):
    return functional(model), *initialise(model, key, x)


def as_dataset(d):
    return d


def check_name(name, plugins):
    from l2ljax.errors import InputError, nearest

    if name not in data_.DATASETS and not name.startswith("npz:") and ".py:" not in name:
        raise InputError(nearest("dataset", name, [*data_.DATASETS, "npz:PATH"]))
