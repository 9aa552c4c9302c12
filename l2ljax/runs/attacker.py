"""A run's trained attacker phi, found by its workdir, as an attack: `--attacks=learned:WORKDIR`.

    attacks = parse_all("pgm10,learned:runs/a", learned=attacker_finder(data_dir=folder))

As an attack no image may depend on the images beside it. An attacker that was trained on the
gradient over the maximum of its batch (`batch_max`) sees it over the image's own maximum, or, with
scaling="frozen", over the maximum of one training batch of its own run.
"""

import inspect
import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from l2ljax.attacks.learned import gradient_scale, learned_attack
from l2ljax.attacks.specs import OneRun
from l2ljax.errors import InputError, word
from l2ljax.gate import check_count
from l2ljax.plugins import Plugins
from l2ljax.runs.from_config import method_of
from l2ljax.runs.run import Run, load_data, load_run
from l2ljax.types import Array

SCALINGS = ("per_example_max", "frozen")
"""Over the image's own maximum, or over that of one training batch of the attacker's own run."""


def attack_of(
    run: Run, *, scaling: str = "per_example_max", steps: int | None = None, data_dir: Any = None
) -> Callable[..., Array]:
    """The trained attacker of a run, as an attack on any model: (rng, f, x, y, *, eps) -> x_adv.

    `steps` are those of the inner problem, if not as it was trained.
    """
    word("learned_scaling", scaling, SCALINGS)
    config, method, name = run.config, run.game.method, run.workdir
    if not method.learns:
        raise InputError(f"learned:{name}: {_called(run)} trains no attacker")
    if method.paired:
        raise InputError(
            f"learned:{name}: {_called(run)} moves an image towards another one of its batch; it "
            "is no attack on an image alone"
        )
    solver, loss, scale = method.solver, "ce", None
    if config is not None:
        loss = str(config.get("attack_loss") or "ce")
        changed: dict[str, Any] = {"bf16": False}
        if steps is not None:
            if "inner_steps" not in inspect.signature(config.method()).parameters:
                raise InputError(f"learned_steps={steps}: {_called(run)} has no steps to count")
            check_count("learned_steps", steps)
            changed["inner_steps"] = steps
        if config.get("grad_norm") == "batch_max":
            changed["grad_norm"] = "none" if scaling == "frozen" else "per_example_max"
            if scaling == "frozen":
                data, n = load_data(config, data_dir), config["batch_size"]
                scale = gradient_scale(
                    run.classifier, data.x_train[:n], data.y_train[:n], loss=loss
                )
        solver = method_of(config | changed, run.game.data.x_train.shape[-1]).solver
    return partial(
        _play,
        solver=solver,
        phi=run.state.phi,
        phi_stats=run.state.phi_stats,
        loss=loss,
        scale=scale,
        shape=run.game.data.x_train.shape[1:],
        name=name,
    )


def attacker_finder(
    *,
    scaling: str = "per_example_max",
    steps: int | None = None,
    data_dir: str | None = None,
    plugins: Plugins | Iterable[str | pathlib.Path] = (),
) -> Callable[[str], OneRun]:
    """workdir -> the attacker of the run in it as a part of an attack."""

    def find(name: str) -> OneRun:
        run = load_run(name, plugins=plugins)
        attack = attack_of(run, scaling=scaling, steps=steps, data_dir=data_dir)
        inner = steps or (run.config or {}).get("inner_steps") or 1
        return OneRun(attack, cost=4.0 * int(inner))

    return find


def _called(run: Run) -> str:
    return "this game" if run.config is None else run.config["method"]


def _play(rng, f, x, y, *, eps, norm="linf", shape, name, **settings):
    if x.shape[1:] != shape:
        raise InputError(f"learned:{name} was trained on images of another shape")
    return learned_attack(rng, f, x, y, eps=eps, **settings)
