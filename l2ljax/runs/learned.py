"""A run's trained attacker phi, found by its workdir, as an attack: `--attacks=learned:WORKDIR`.

As an attack no image may depend on the images beside it. An attacker that was trained on the
gradient over the maximum of its batch (`batch_max`) sees it over the image's own maximum, or, with
`--learned_scaling=frozen`, over the maximum of one training batch of its own run.
"""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

from l2ljax.runs.game import method_of
from l2ljax.attacks import learned
from l2ljax.attacks.learned import gradient_scale
from l2ljax.attacks.specs import Play
from l2ljax.methods import method_settings
from l2ljax.errors import InputError
from l2ljax.runs.saved import open_run, restore


def finder(options: dict[str, Any], data_dir: str) -> Callable[[str], Play]:
    """workdir -> its attacker as a part of an attack; two flags say how it sees the gradient."""

    def find(name: str) -> Play:
        workdir = pathlib.Path(name)
        config, data, game = open_run(workdir, data_dir)
        if not game.method.learns:
            raise InputError(f"learned:{name}: {config['method']} trains no attacker")
        if game.method.paired:
            raise InputError(
                f"learned:{name}: {config['method']} moves an image towards another one of its "
                "batch; it is no attack on an image alone"
            )
        if options["learned_steps"] is not None:
            counts = "inner_steps" in method_settings(config["method"])
            if not counts or options["learned_steps"] <= 0:
                raise InputError(
                    f"--learned_steps={options['learned_steps']}: {config['method']} "
                    f"{'needs a step' if counts else 'has no steps to count'}"
                )
            config = config | {"inner_steps": options["learned_steps"]}
        saved = restore(workdir, "best", config, data, game)
        loss = config["attack_loss"] or "ce"
        frozen = None
        if config["grad_norm"] == "batch_max":
            is_frozen = options["learned_scaling"] == "frozen"
            config = config | {"grad_norm": "none" if is_frozen else "per_example_max"}
            if is_frozen:
                n = config["batch_size"]
                f = game.frozen(saved.theta, saved.theta_stats)
                frozen = gradient_scale(f, data.x_train[:n], data.y_train[:n], loss=loss)
        solver = method_of(config | {"bf16": False}, data.x_train.shape[-1]).solver
        play = partial(
            _play,
            solver=solver,
            phi=saved.state.phi,
            phi_stats=saved.state.phi_stats,
            loss=loss,
            scale=frozen,
            shape=data.x_train.shape[1:],
            name=name,
        )
        return Play(play, cost=4.0 * int(config["inner_steps"] or 1))

    return find


def _play(rng, f, x, y, *, eps, norm, shape, name, **settings):
    if x.shape[1:] != shape:
        raise InputError(f"learned:{name} was trained on images of another shape")
    return learned(rng, f, x, y, eps=eps, **settings)
