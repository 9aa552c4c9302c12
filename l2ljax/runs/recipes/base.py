"""What a recipe is, and what all of them start from.

METHOD says what makes a method that method; it goes over a recipe's `all` and `dataset`, and under
what the recipe says of the method. docs/methods.md names the source of each.

QUICK and SMALL are this project's own recipes for a CPU: small nets, few epochs.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """The settings of a training run, as layers: the more special one wins.

    about opens with the exact commands, and says what to expect of them; `all` holds for every run,
    `dataset`, `method` and `dataset_method` for those that they name. With needs_init a run starts
    from the best classifier of a Plain run (--init_from).
    """

    about: str
    all: Mapping[str, Any]
    dataset: Mapping[str, Mapping[str, Any]] = {}
    method: Mapping[str, Mapping[str, Any]] = {}
    dataset_method: Mapping[tuple[str, str], Mapping[str, Any]] = {}
    needs_init: bool = False


FLAGS = {
    # the players
    "model": "wrn-34-4",
    "bf16": False,
    "remat": False,
    "attacker": "wide",
    "attacker_width": 1.0,
    # the game
    "eps": "0.031",
    "eps_warmup": 0.0,
    "inner_step": "0.01",
    "grad_norm": "batch_max",
    "attack_loss": "ce",
    "clean_mix": True,
    "label_smoothing": 0.0,
    "order": "simultaneous",
    "phi_steps": 1,
    "craft_bn": "batch",
    "on_overfitting": "warn",
    # the two time scales
    "epochs": 40,
    "batch_size": 128,
    "accumulate": 1,
    "theta_opt": "sgd",
    "theta_lr": 0.1,
    "theta_schedule": "constant",
    "theta_peak_at": 0.5,
    "theta_drops": "",
    "theta_drop_factor": 0.1,
    "theta_momentum": 0.9,
    "theta_b2": 0.999,
    "theta_wd": 2e-4,
    "theta_clip": 0.0,
    "phi_opt": "adam",
    "phi_lr": 1e-3,
    "phi_schedule": "constant",
    "phi_peak_at": 0.5,
    "phi_drops": "",
    "phi_drop_factor": 0.1,
    "phi_momentum": 0.9,
    "phi_b2": 0.999,
    "phi_wd": 2e-4,
    "phi_clip": 0.0,
    "ema_decay": 0.0,
}

TRADES = {"trades_beta": 6.0, "craft_bn": "eval"}

INTERP = {"craft_bn": "eval", "order": "simultaneous"}

# Our reconstruction: Adam 1e-3 without decay, phi and theta from one pass.
RNN = {
    "inner_steps": 10,
    "attacker_start": "uniform",
    "rnn_hidden": 10,
    "rnn_input": "sign_log",
    "rnn_weights": "ones",
    "rnn_learned_step": True,
    "rnn_bound": 0.5,
    "craft_bn": "eval",
    "order": "simultaneous",
    "phi_opt": "adam",
    "phi_lr": 1e-3,
    "phi_schedule": "constant",
    "phi_wd": 0.0,
}

FROM_KL = {"attack_loss": "kl", "attacker_start": "gaussian"}

METHOD: dict[str, dict[str, Any]] = {
    "pgm": {"inner_steps": 10, "attacker_start": "zero"},
    "grad_l2l": {"attacker_start": "zero"},
    "two_step_l2l": {"attacker_start": "zero"},
    "multistep_l2l": {"inner_steps": 3, "attacker_start": "zero"},
    "kstep_l2l": {"inner_steps": 10, "attacker_start": "zero"},
    # The authors' first upload has beta = 1 for the L2L form.
    "grad_l2l_trades": {"trades_beta": 1.0, "attacker_start": "zero"},
    "two_step_l2l_trades": {"trades_beta": 1.0, "attacker_start": "zero"},
    "grad_l2l_interp": INTERP | {"interp_label": 0.5},
    "two_step_l2l_interp": INTERP | {"interp_label": 0.9},
    "rnn_adv": RNN,
    "rnn_trades": RNN | TRADES | FROM_KL,
    "trades": TRADES | FROM_KL | {"inner_steps": 10},
    "fast_bat": {
        "bat_point": "ns_pgd",
        "bat_lambda": 10.0,
        "bat_mixed": "z",
    },
    "fast_at": {"inner_step": "1.25eps", "attacker_start": "uniform"},
    "n_fgsm": {"inner_step": "1eps", "noise": 2.0},
    "pgd2": {"inner_step": "0.5eps", "attacker_start": "uniform"},
    "pgd10": {"inner_step": "0.25eps", "attacker_start": "uniform"},
    "apgd10": {"attacker_start": "uniform"},
}


def ga_lambda(eps: float) -> float:
    """GradAlign's weight on CIFAR-10, exp(eps ln(10) / 8 + ln 0.02) with eps in 1/255 (4.4).

    The rule's last radius is 16/255; beyond, its last weight stays.
    """
    return round(math.exp(min(255 * eps, 16.0) * math.log(10) / 8 + math.log(0.02)), 4)


def bat_step(eps: float) -> str:
    """Fast-BAT's attack step: 5000/255 up to eps = 8/255, 2000/255 beyond, as its code has it."""
    return "5000/255" if 255 * eps <= 8.001 else "2000/255"


DERIVED = {"ga_lambda": ga_lambda, "bat_step": bat_step}
"""Settings that their authors choose by eps, where nothing else has set them."""


LARGE = {"model": "wrn-10-1", "attacker": "two_layer", "epochs": 5}
# The best of 30 trials each on the validation split, trial 16 of grad_l2l and trial 4 of pgm in
# experiments/search.py; results/digits_tuned.md has the test.
LEARNED = {
    "attacker": "two_layer",
    "attack_loss": "margin",
    "grad_norm": "sign",
    "batch_size": 64,
    "label_smoothing": 0.3,
    "theta_lr": 0.4,
    "phi_lr": 3e-3,
    "phi_wd": 0.0,
}
HAND_MADE = {
    "attack_loss": "margin",
    "clean_mix": False,
    "craft_bn": "eval",
    "batch_size": 64,
    "ema_decay": 0.99,
    "label_smoothing": 0.1,
    "theta_lr": 0.2,
    "theta_schedule": "cosine",
    "theta_wd": 2e-3,
}
START = {"attacker_start": "uniform"}

QUICK = Recipe(
    """Small nets for a CPU. Digits in under a minute, CIFAR-10 in about 15.

    python experiments/train.py --recipe=quick --dataset=digits --method=grad_l2l
    python experiments/train.py --recipe=quick --dataset=cifar10 --method=grad_l2l

The attackers are an eighth of the paper's width (`--attacker_width=0.125`): a quick run shows that
things work and how they compare, not the paper's figures. Measured with the second command (seed 0,
jax 0.10.2, 14 minutes of processor time on two cores of an AMD EPYC), 10,000 test images: the best
epoch on validation clean 41.8 %, FGSM 28.3 %, PGM-10 27.4 %; the last 45.2, 29.0 and 27.6 %.
""",
    all={
        "model": "wrn-10-2",
        "attacker": "wide",
        "attacker_width": 0.125,
        "eps": "8/255",
        "inner_step": "2/255",
        "epochs": 30,
        "theta_lr": 0.1,
        "theta_schedule": "cyclic",
        "theta_wd": 5e-4,
        "phi_schedule": "constant",
    },
    dataset={
        "digits": {"eps": "0.2", "inner_step": "0.05"},
        "mnist": LARGE | {"eps": "0.3", "inner_step": "0.075"},
        "fashion_mnist": LARGE | {"eps": "0.1", "inner_step": "0.025"},
        "cifar10": LARGE,
        "cifar100": LARGE,
        "svhn": LARGE,
    },
    dataset_method={
        ("digits", "fgsm"): HAND_MADE,
        ("digits", "pgm"): HAND_MADE | START,
        ("digits", "naive_l2l"): LEARNED,
        ("digits", "grad_l2l"): LEARNED | START,
        ("digits", "two_step_l2l"): LEARNED | START,
        ("digits", "multistep_l2l"): LEARNED | START,
        ("digits", "kstep_l2l"): LEARNED | START,
    },
)


SMALL = Recipe(
    """The comparison that a CPU carries: 5,000 CIFAR-10 images, small nets, ten epochs.

    python experiments/train.py --recipe=small --dataset=cifar10 --method=grad_l2l
    python experiments/train.py --recipe=small --dataset=cifar10 --method=fast_at --eps=16/255

Expected: results/cifar10_small.md, one seed: 14 to 22 % under quick AutoAttack at 8/255. All
methods share the classifier (WRN-10-1), the rate and the epochs; the attackers have an eighth of
the paper's width.
""",
    all={
        "model": "wrn-10-1",
        "attacker": "wide",
        "attacker_width": 0.125,
        "train_size": 5000,
        "val_size": 500,
        "eps": "8/255",
        "inner_step": "2/255",
        "epochs": 10,
        "theta_lr": 0.1,
        "theta_schedule": "cyclic",
        "theta_wd": 5e-4,
    },
)
