"""The flags of a training run, and the configuration they resolve to.

A configuration is a plain dict of every flag that decides the outcome; it is printed in full,
written to config.json, and compared when a run is resumed.
"""

import json
import math
import pathlib
import shlex
from typing import Any

from l2ljax.attacker_input import GRAD_NORMS
from l2ljax.ball import STARTS
from l2ljax.data import DATASETS, Dataset
from l2ljax.data.batches import AUGMENTS
from l2ljax.losses import ATTACK_LOSSES
from l2ljax.methods import METHODS, method_settings, takers
from l2ljax.models import ATTACKERS, MODELS
from l2ljax.errors import nearest
from l2ljax.schedules import OPTIMISERS, SCHEDULES
from l2ljax.solvers.implicit import MIXED_AT, POINTS
from l2ljax.solvers.recurrent import PREPROCESS, WEIGHTS
from l2ljax.settings import Setting, check_eps, fraction
from l2ljax.errors import InputError
from l2ljax.runs.recipes import DERIVED, RECIPES, default_recipe, flags_of
from l2ljax.runs.validity import check

ON_OVERFITTING = ("warn", "stop", "rollback")
"""Say so | end the run with its last good epoch | go back to that epoch (see guard.py)."""

WHAT = [
    Setting("method", str, f"the method: {' | '.join(METHODS)}", "grad_l2l"),
    Setting("dataset", str, f"{' | '.join(DATASETS)} | npz:PATH", "digits"),
    Setting(
        "recipe",
        tuple(RECIPES),
        "the settings to start from; quick on digits, elsewhere the method's own",
    ),
    Setting(
        "train_size",
        int,
        "use only so many training images, the first ones, of npz:PATH every class its share; all",
    ),
    Setting(
        "val_size",
        int,
        "images of the training set held out for selection, of npz:PATH every class its share; "
        "0: none, and the last epoch is taken; min(1000, 10 %)",
    ),
    Setting("init_from", str, "a run's workdir whose best classifier is theta's start", ""),
]

GAME = [
    Setting("eps", "fraction", "radius of the l_inf ball on the [0, 1] scale; 8/255 is accepted"),
    Setting("eps_warmup", float, "epochs over which eps grows from 0 to its value"),
    Setting("order", ("simultaneous", "alternating"), "Algorithm 2 | the authors' code"),
    Setting("phi_steps", int, "moves of phi per move of theta (alternating order)"),
    Setting("inner_steps", int, "steps T or K of the inner problem"),
    Setting(
        "inner_step",
        "step",
        "size of a step on the [0, 1] scale; 1.25eps is in radii, which follow --eps_warmup",
    ),
    Setting("attacker_start", tuple(STARTS), "where the inner problem starts"),
    Setting("grad_norm", GRAD_NORMS, "scaling of the gradient the attacker sees"),
    Setting("attack_loss", tuple(ATTACK_LOSSES), "the loss whose gradient the inner problem uses"),
    Setting("clean_mix", bool, "fgsm and pgm: train on clean and attacked images in equal parts"),
    Setting("trades_beta", float, "TRADES: weight of the KL to the attacked image"),
    Setting("interp_label", float, "adversarial interpolation: share of the label taken away"),
    Setting("rnn_hidden", int, "RNN optimiser: size of the LSTM's state"),
    Setting("rnn_input", tuple(PREPROCESS), "RNN optimiser: what it sees of the gradient"),
    Setting("rnn_weights", tuple(WEIGHTS), "RNN optimiser: weights of the losses on the way"),
    Setting(
        "rnn_learned_step", bool, "RNN optimiser: learns the step too, not the direction alone"
    ),
    Setting("rnn_bound", float, "RNN optimiser: the largest learned step in radii"),
    Setting("bat_point", tuple(POINTS), "Fast-BAT: where the lower level is made linear"),
    Setting(
        "bat_step", "fraction", "Fast-BAT: attack step a per unit of the gradient (1 / lambda)"
    ),
    Setting("bat_lambda", float, "Fast-BAT: lambda of the implicit gradient; 0 is 1 / bat_step"),
    Setting("bat_mixed", MIXED_AT, "Fast-BAT: point of the mixed derivative, z | delta"),
    Setting("noise", float, "N-FGSM: half-width of the noise in radii"),
    Setting("ga_lambda", float, "GradAlign: weight of the penalty; on CIFAR its authors' rule"),
    Setting("label_smoothing", float, "share of the label spread over all classes"),
    Setting(
        "craft_bn",
        ("batch", "update", "eval"),
        "theta's BatchNorm while the attack is made: the batch's own, the same and kept, running",
    ),
    Setting("on_overfitting", ON_OVERFITTING, "when PGD-10 accuracy collapses under FGSM's"),
]

OWN = {setting for method in METHODS for setting in method_settings(method)}
OWN -= {"order", "label_smoothing", "remat"}  # a configuration of any method has these
"""The flags that only some methods take; for the others they have no value."""

PLAYERS = [
    Setting("model", str, " | ".join(MODELS)),
    Setting("dropout", float, "dropout rate of wrn-D-K and small_cnn; the network's own"),
    Setting("bf16", bool, "compute in bfloat16; parameters, statistics and losses stay float32"),
    Setting(
        "remat", bool, "keep less for the backward pass: residual blocks, the RNN's inner loop"
    ),
    Setting("attacker", tuple(ATTACKERS), "the network g"),
    Setting(
        "attacker_width", float, "width of g relative to the paper's (1); a CPU run uses 0.125"
    ),
]

TIME = [
    Setting("epochs", int, "passes over the training set"),
    Setting("batch_size", int, "images per step, over all devices"),
    Setting("accumulate", int, "parts of a batch: gradients are averaged, BatchNorm sees one part"),
    Setting(
        "augment", tuple(AUGMENTS), "augmentation, inside the compiled step; the dataset's own"
    ),
    Setting("ema_decay", float, "decay per step of theta's moving average; 0 keeps none"),
]
for player in ("theta", "phi"):
    TIME += [
        Setting(f"{player}_opt", OPTIMISERS, f"{player}'s optimiser"),
        Setting(f"{player}_lr", float, f"{player}'s peak learning rate"),
        Setting(f"{player}_schedule", SCHEDULES, f"shape of {player}'s learning rate"),
        Setting(f"{player}_peak_at", float, "where a cyclic schedule peaks, as a share of the run"),
        Setting(f"{player}_drops", str, "epochs of the drops of a piecewise schedule, as 30,60"),
        Setting(f"{player}_drop_factor", float, "factor of every drop"),
        Setting(f"{player}_momentum", float, "momentum, or Adam's beta 1"),
        Setting(f"{player}_b2", float, "Adam's beta 2"),
        Setting(f"{player}_wd", float, "weight decay, added to the gradient"),
        Setting(f"{player}_clip", float, "bound on the gradient's global norm; 0 is none"),
    ]

DECIDES = [*WHAT, *GAME, *PLAYERS, *TIME]
"""The flags that decide the outcome of a run, together with its seed."""


def resolve(given: dict[str, Any]) -> dict[str, Any]:
    """Every deciding flag: from the command line, else the recipe, else the method's row."""
    what = {flag.name: given.get(flag.name, flag.default) for flag in WHAT}
    method, dataset = what["method"], what["dataset"]
    if method not in METHODS:
        raise InputError(nearest("method", method, METHODS))
    if dataset not in DATASETS and not dataset.startswith("npz:"):
        raise InputError(nearest("dataset", dataset, [*DATASETS, "npz:PATH"]))
    recipe = what["recipe"] or default_recipe(dataset, method)
    config: dict[str, Any] = {flag.name: None for flag in DECIDES}
    config |= flags_of(recipe, dataset, method)
    config |= {name: value for name, value in given.items() if name in config}
    config |= {name: value for name, value in what.items() if value is not None}
    config["recipe"] = recipe
    _keep_own(config, given)
    check_eps(config["eps"])
    _derive(config)
    check(config)
    for player in ("theta", "phi"):
        epochs(config[f"{player}_drops"], f"--{player}_drops")
    if RECIPES[recipe].NEEDS_INIT and method != "plain" and not config["init_from"]:
        name = pathlib.Path(dataset.removeprefix("npz:")).stem
        raise InputError(
            f"recipe {recipe} starts from a Plain net: train one with --recipe={recipe} "
            f"--dataset={dataset} --method=plain, then add --init_from=runs/{name}-plain-0 "
            "(--init_from=none starts from scratch)"
        )
    return config


def _keep_own(config: dict[str, Any], given: dict[str, Any]) -> None:
    """No value for the flags that this method does not take; one that was asked for is refused."""
    method = config["method"]
    for name in OWN - method_settings(method).keys():
        if given.get(name) is not None:
            raise InputError(f"--{name}: {method} has none; {', '.join(takers(name))} have")
        config[name] = None


def _derive(config: dict[str, Any]) -> None:
    """The settings that a rule of the authors finds from eps, where nothing else has set them."""
    for name, rule in DERIVED.items():
        if name in method_settings(config["method"]) and config[name] is None:
            config[name] = rule(fraction(config["eps"]))


def epochs(text: str, name: str) -> list[float]:
    """`30,60` as numbers."""
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers):
        raise InputError(f"{name}={text} is no list of epochs such as 30,60")
    return numbers


def check_batch(config: dict[str, Any], data: Dataset) -> None:
    """A batch must fit into the training split."""
    if config["batch_size"] > len(data.x_train):
        raise InputError(
            f"--batch_size={config['batch_size']} is larger than the training split "
            f"of {data.name} ({len(data.x_train)} images)"
        )


def show(config: dict[str, Any]) -> str:
    """Every flag on a line that can be pasted back; a flag without a value is left out."""
    words = [f"--{name}={_text(value)}" for name, value in config.items() if value is not None]
    return shlex.join(words)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_json(workdir: str | pathlib.Path) -> dict[str, Any]:
    """What the config.json of a run of any kind says."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{workdir} is no run: it has no config.json") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no configuration")
    return config


def read(workdir: str | pathlib.Path) -> dict[str, Any]:
    """The config.json of a training run."""
    path, config = pathlib.Path(workdir) / "config.json", read_json(workdir)
    own = method_settings(config["method"]) if config.get("method") in METHODS else {}
    for name in {"train_size", *OWN} - own.keys():
        config.setdefault(name)
    lacking = [f"--{flag.name}" for flag in DECIDES if flag.name not in config]
    if lacking:
        raise InputError(f"{path} is of another version: it lacks {', '.join(lacking)}")
    return config


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The flags on which two configurations differ, with both values."""
    names = [*old, *(name for name in new if name not in old)]
    return [f"--{n}: {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]
