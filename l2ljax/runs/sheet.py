"""The sheet of perturbations of a run (Figure 5): FGSM, PGM-10 and the run's own attacker."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.attacks import fgsm, pgd
from l2ljax.ball import scale
from l2ljax.bilevel import evaluating
from l2ljax.machine import cache_folder
from l2ljax.runs.saved import open_run, restore
from l2ljax.types import Problem


def sheet(workdir: pathlib.Path, path: pathlib.Path, columns: int) -> pathlib.Path:
    """Draw the first test images of the run's best checkpoint under each attack."""
    from l2ljax import figures

    config, data, game = open_run(workdir, str(cache_folder("data")))
    saved = restore(workdir, "best", config, data, game)
    state, eps = saved.state, game.eps
    f = game.frozen(saved.theta, saved.theta_stats)
    x, y = scale(jnp.asarray(data.x_test[:columns])), jnp.asarray(data.y_test[:columns])
    key = jax.random.key(0)

    seen = evaluating(game.f, saved.theta_stats)
    ell = game.method.attack_loss(seen, saved.theta, saved.theta_stats, x, y)
    problem = Problem(ell, x, y, eps, jax.random.split(key, len(x)), train=False)
    own = game.method.solver.solve(problem, saved.theta, state.phi, state.phi_stats)
    strength = {"eps": eps, "steps": 10, "step_size": eps / 3, "start": "zero", "loss": "ce"}
    rows = {
        "FGSM": fgsm(key, f, x, y, eps=eps) - x,
        "PGM-10": pgd(key, f, x, y, **strength) - x,
        f"{config['method']} attacker": own.delta,
    }
    predictions = {name: np.asarray(f(x + delta).argmax(-1)) for name, delta in rows.items()}
    predictions["clean"] = np.asarray(f(x).argmax(-1))
    return figures.draw_perturbations(
        path,
        np.asarray(x),
        {name: np.asarray(delta) for name, delta in rows.items()},
        np.asarray(y),
        predictions,
        eps=eps,
        class_names=data.class_names,
    )
