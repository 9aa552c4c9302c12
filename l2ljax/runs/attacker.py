"""A run's trained attacker phi, found by its workdir, as an attack: `--attacks=learned:WORKDIR`.

    attacks = parse_all("pgm10,learned:runs/a", learned=attacker_finder(data_dir))

As an attack no image may depend on the images beside it. An attacker that was trained on the
gradient over the maximum of its batch (`batch_max`) sees it over the image's own maximum, or, with
scaling="frozen", over the maximum of one training batch of its own run.
"""

import pathlib
from collections.abc import Callable
from functools import partial

from l2ljax.attacks.learned import gradient_scale, learned_attack
from l2ljax.attacks.specs import OneRun
from l2ljax.errors import InputError, word
from l2ljax.gate import check_count
from l2ljax.methods import METHODS
from l2ljax.runs.game import method_of
from l2ljax.runs.saved import open_run, restore


def attacker_finder(
    data_dir: str | None, *, scaling: str = "per_example_max", steps: int | None = None
) -> Callable[[str], OneRun]:
    """workdir -> its attacker as a part of an attack.

    `scaling` is "per_example_max" or "frozen", `steps` those of the inner problem if not as it was
    trained.
    """
    word("learned_scaling", scaling, ("per_example_max", "frozen"))

    def find(name: str) -> OneRun:
        workdir = pathlib.Path(name)
        config, data, game = open_run(workdir, data_dir)
        row = METHODS[config["method"]]
        if not row.learns:
            raise InputError(f"learned:{name}: {config['method']} trains no attacker")
        if row.paired:
            raise InputError(
                f"learned:{name}: {config['method']} moves an image towards another one of its "
                "batch; it is no attack on an image alone"
            )
        if steps is not None:
            if "inner_steps" not in row.takes:
                raise InputError(f"learned_steps={steps}: {config['method']} has no steps to count")
            check_count("learned_steps", steps)
            config = config | {"inner_steps": steps}
        saved = restore(workdir, "best", config, data, game)
        loss = str(config["attack_loss"] or "ce")
        frozen = None
        if config["grad_norm"] == "batch_max":
            is_frozen = scaling == "frozen"
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
        return OneRun(play, cost=4.0 * int(config["inner_steps"] or 1))

    return find


def _play(rng, f, x, y, *, eps, norm, shape, name, **settings):
    if x.shape[1:] != shape:
        raise InputError(f"learned:{name} was trained on images of another shape")
    return learned_attack(rng, f, x, y, eps=eps, **settings)
