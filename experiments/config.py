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
from l2ljax.methods import METHODS
from l2ljax.models import ATTACKERS
from l2ljax.names import nearest
from l2ljax.schedules import OPTIMISERS, SCHEDULES
from options import Flag, UsageError, check_eps, fraction
from recipes import DEFAULT, RECIPES, flags_of

WHAT = [
    Flag("method", str, f"the method: {' | '.join(METHODS)}", "grad_l2l"),
    Flag("dataset", str, f"{' | '.join(DATASETS)} | npz:PATH", "digits"),
    Flag(
        "recipe", tuple(RECIPES), "the settings to start from; quick on digits, l2l_code on CIFAR"
    ),
    Flag("val_size", int, "images of the training set held out for selection; min(1000, 10 %)"),
    Flag("init_from", str, "a run's workdir whose best classifier is theta's start", ""),
]

GAME = [
    Flag("eps", "fraction", "radius of the l_inf ball on the [0, 1] scale; 8/255 is accepted"),
    Flag("eps_warmup", float, "epochs over which eps grows from 0 to its value"),
    Flag("order", ("simultaneous", "alternating"), "Algorithm 2 | the authors' code"),
    Flag("phi_steps", int, "moves of phi per move of theta (alternating order)"),
    Flag("inner_steps", int, "steps T or K of the inner problem (pgm, multistep_l2l, kstep_l2l)"),
    Flag("inner_step", "fraction", "size of one step of pgm and kstep_l2l on the [0, 1] scale"),
    Flag("attacker_start", tuple(STARTS), "where the inner problem starts"),
    Flag("grad_norm", GRAD_NORMS, "scaling of the gradient the attacker sees"),
    Flag("attack_loss", tuple(ATTACK_LOSSES), "the loss whose gradient the inner problem uses"),
    Flag("clean_mix", bool, "fgsm and pgm: train on clean and attacked images in equal parts"),
    Flag("label_smoothing", float, "share of the label spread over all classes"),
    Flag(
        "craft_bn", ("batch", "update", "eval"), "theta's BatchNorm mode while the attack is made"
    ),
]

PLAYERS = [
    Flag("model", str, "wrn-D-K | preact_resnet18 | resnet18 | small_cnn | mlp"),
    Flag("dropout", float, "dropout rate of wrn-D-K and small_cnn; the network's own"),
    Flag("bf16", bool, "compute in bfloat16; parameters, statistics and losses stay float32"),
    Flag("attacker", tuple(ATTACKERS), "the network g"),
    Flag("attacker_width", float, "width of g relative to the paper's (1); a CPU run uses 0.125"),
]

TIME = [
    Flag("epochs", int, "passes over the training set"),
    Flag("batch_size", int, "images per step"),
    Flag("augment", tuple(AUGMENTS), "augmentation, inside the compiled step; the dataset's own"),
    Flag("ema_decay", float, "decay per step of theta's moving average; 0 keeps none"),
]
for player in ("theta", "phi"):
    TIME += [
        Flag(f"{player}_opt", OPTIMISERS, f"{player}'s optimiser"),
        Flag(f"{player}_lr", float, f"{player}'s peak learning rate"),
        Flag(f"{player}_schedule", SCHEDULES, f"shape of {player}'s learning rate"),
        Flag(f"{player}_drops", str, "epochs of the drops of a piecewise schedule, as 30,60"),
        Flag(f"{player}_drop_factor", float, "factor of every drop"),
        Flag(f"{player}_momentum", float, "momentum, or Adam's beta 1"),
        Flag(f"{player}_b2", float, "Adam's beta 2"),
        Flag(f"{player}_wd", float, "weight decay, added to the gradient"),
        Flag(f"{player}_clip", float, "bound on the gradient's global norm; 0 is none"),
    ]

DECIDES = [*WHAT, *GAME, *PLAYERS, *TIME]
"""The flags that decide the outcome of a run, together with its seed."""


def resolve(given: dict[str, Any]) -> dict[str, Any]:
    """Every deciding flag: from the command line, else the recipe, else the method's row."""
    what = {flag.name: given.get(flag.name, flag.default) for flag in WHAT}
    method, dataset = what["method"], what["dataset"]
    if method not in METHODS:
        raise UsageError(nearest("method", method, METHODS))
    if dataset not in DATASETS and not dataset.startswith("npz:"):
        raise UsageError(nearest("dataset", dataset, [*DATASETS, "npz:PATH"]))
    recipe = what["recipe"] or DEFAULT.get(dataset, "l2l_code")
    row = METHODS[method]
    config = {flag.name: None for flag in DECIDES}
    config |= {"inner_steps": row.inner_steps, "attacker_start": row.start}
    config |= flags_of(recipe, dataset, method)
    config |= {name: value for name, value in given.items() if name in config}
    config |= what | {"recipe": recipe}
    _check(config, given)
    if RECIPES[recipe].NEEDS_INIT and method != "plain" and not config["init_from"]:
        name = pathlib.Path(dataset.removeprefix("npz:")).stem
        raise UsageError(
            f"recipe {recipe} starts from a Plain net: train one with --recipe={recipe} "
            f"--dataset={dataset} --method=plain, then add --init_from=runs/{name}-plain-0 "
            "(--init_from=none starts from scratch)"
        )
    return config


def _check(config: dict[str, Any], given: dict[str, Any]) -> None:
    row, method = METHODS[config["method"]], config["method"]
    check_eps(config["eps"])
    if row.inner_steps is None and "inner_steps" in given:
        takes = ", ".join(name for name, r in METHODS.items() if r.inner_steps)
        raise UsageError(f"--inner_steps: {method} has no inner steps to count; {takes} have")
    if row.start is None and "attacker_start" in given:
        raise UsageError(f"--attacker_start: the inner problem of {method} has no start")
    positive = ("epochs", "batch_size", "inner_steps", "phi_steps", "attacker_width", "theta_lr")
    for name in positive:
        if config[name] is not None and config[name] <= 0:
            raise UsageError(f"--{name}={config[name]} must be positive")
    both = [f"{player}_{name}" for player in ("theta", "phi") for name in ("wd", "clip")]
    for name in ("eps_warmup", "phi_lr", "theta_drop_factor", "phi_drop_factor", *both):
        if config[name] < 0:
            raise UsageError(f"--{name}={config[name]} must not be negative")
    both = [f"{player}_{name}" for player in ("theta", "phi") for name in ("momentum", "b2")]
    for name in ("dropout", "label_smoothing", "ema_decay", *both):
        if config[name] is not None and not 0 <= config[name] < 1:
            raise UsageError(f"--{name}={config[name]} must lie in [0, 1)")
    if fraction(config["inner_step"]) <= 0:
        raise UsageError(f"--inner_step={config['inner_step']} must be positive")
    if config["phi_steps"] > 1 and config["order"] == "simultaneous":
        raise UsageError("--phi_steps above 1 needs --order=alternating")
    if config["attack_loss"] == "kl" and method == "fgsm":
        raise UsageError("--attack_loss=kl has no gradient at x itself, where fgsm takes its own")
    if config["attack_loss"] == "kl" and config["attacker_start"] == "zero":
        raise UsageError(
            "--attack_loss=kl has no gradient at x itself: add --attacker_start=gaussian"
        )
    for player in ("theta", "phi"):
        epochs(config[f"{player}_drops"], f"--{player}_drops")


def epochs(text: str, name: str) -> list[float]:
    """`30,60` as numbers."""
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers):
        raise UsageError(f"{name}={text} is no list of epochs such as 30,60")
    return numbers


def check_batch(config: dict[str, Any], data: Dataset) -> None:
    """A batch must fit into the training split."""
    if config["batch_size"] > len(data.x_train):
        raise UsageError(
            f"--batch_size={config['batch_size']} is larger than the training split "
            f"of {data.name} ({len(data.x_train)} images)"
        )


def show(config: dict[str, Any]) -> str:
    """Every flag on a line that can be pasted back; a flag without a value is left out."""
    words = [f"--{name}={_text(value)}" for name, value in config.items() if value is not None]
    return shlex.join(words)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read(workdir: str | pathlib.Path) -> dict[str, Any]:
    """The config.json of a run."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{workdir} is no run: it has no config.json") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no configuration")
    lacking = [f"--{flag.name}" for flag in DECIDES if flag.name not in config]
    if lacking:
        raise UsageError(f"{path} is of another version: it lacks {', '.join(lacking)}")
    return config


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The flags on which two configurations differ, with both values."""
    names = [*old, *(name for name in new if name not in old)]
    return [f"--{n}: {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]
