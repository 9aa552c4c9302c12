"""Several runs side by side: their classifiers by short names, and who withstands what.

    workdirs = by_name(["runs/digits-pgm-0", "runs/digits-plain-1"])
    configs, eps = agreed(workdirs, eps=None, split="test")
    nets, data = open_nets(workdirs, configs, which="best", data_dir=folder)

All nets compute in float32, also those that were trained in bfloat16 (`Game.frozen`).
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.attacks.cascade import Run, batches, judge, nan_gradients, true_float32
from l2ljax.attacks.entrance import dataset
from l2ljax.ball import per_image, scale
from l2ljax.checkpoint import fingerprint
from l2ljax.data import Dataset
from l2ljax.errors import InputError
from l2ljax.runs import settings as configuration
from l2ljax.runs.game import load_data, make_game
from l2ljax.runs.saved import restore
from l2ljax.settings import check_eps, fraction
from l2ljax.types import Array


class Net(NamedTuple):
    """The classifier of a run in eval mode, and what identifies it."""

    workdir: str
    config: dict[str, Any]
    step: int
    sha256: str
    f: Partial


def by_name(workdirs: Sequence[str]) -> dict[str, str]:
    """Name -> workdir: the folder's own name, or the whole path where two have the same."""
    names = {workdir: pathlib.Path(workdir).resolve().name for workdir in workdirs}
    several = {name for name in names.values() if [*names.values()].count(name) > 1}
    return {workdir if name in several else name: workdir for workdir, name in names.items()}


def agreed(
    workdirs: Mapping[str, str], *, eps: str | None, split: str
) -> tuple[dict[str, dict[str, Any]], str]:
    """Configurations of runs that may be compared, and the radius as text: eps, or their own."""
    configs = {name: configuration.read(workdir) for name, workdir in workdirs.items()}

    def same(name: str, refusal: str, value: Callable = str) -> None:
        if len({value(config[name]) for config in configs.values()}) > 1:
            found = ", ".join(f"{run} {config[name]}" for run, config in configs.items())
            raise InputError(f"the runs {refusal} (--{name}: {found})")

    same("dataset", "are of different data sets")
    if split == "val":
        same("val_size", "held out different validation images: attack --split=test")
    if eps is None:
        same("eps", "were trained at different radii: say which to use with --eps", fraction)
    text = eps or next(iter(configs.values()))["eps"]
    check_eps(text)
    return configs, text


def open_nets(
    workdirs: Mapping[str, str],
    configs: Mapping[str, dict[str, Any]],
    *,
    which: str,
    data_dir: str | None,
) -> tuple[dict[str, Net], Dataset]:
    """Every net by its name, and the data; nets of one architecture share their compilation."""
    nets, loaded, programs = {}, {}, {}
    for name, workdir in workdirs.items():
        config = configs[name]
        sizes = config["val_size"], config["train_size"]
        if sizes not in loaded:
            loaded[sizes] = load_data(config, data_dir)
        data = loaded[sizes]
        game = make_game(config, data)
        saved = restore(pathlib.Path(workdir), which, config, data, game)
        weights = saved.theta, saved.theta_stats
        architecture = config["model"], config["dropout"], data.mean, data.std
        f = programs.setdefault(architecture, game.frozen)(*weights)
        nets[name] = Net(workdir, config, saved.step, fingerprint(weights), f)
    return nets, next(iter(loaded.values()))


def craft(rng: Array, f: Partial, x: Array, y: Array, run: Run, *, first: int, eps: float) -> Array:
    """That run's images against f; what one draws depends on its row alone, x[0] being `first`."""
    keys = per_image(jax.random.fold_in(rng, run.draw), first + jnp.arange(len(x)))
    with true_float32():
        return run.play(keys, f, x, y, eps=eps, norm="linf")


def broken_gradients(f: Partial, x: np.ndarray, y: np.ndarray, *, batch_size: int) -> int:
    """At how many images the gradient of cross-entropy is NaN or infinite."""
    count = 0
    for block, n in batches(np.arange(len(x)), batch_size):
        count += nan_gradients(f, scale(jnp.asarray(x[block])), jnp.asarray(y[block]), n)
    return count


def withstood(
    rng: Array,
    surrogate: Partial,
    targets: Mapping[str, Partial],
    x: np.ndarray,
    y: np.ndarray,
    runs: Sequence[Run],
    *,
    eps: float,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """For each target, which images it classifies rightly after every run on the surrogate."""
    for f in (surrogate, *targets.values()):
        dataset(f, x, y, batch_size=batch_size)
    gate.check_eps(eps)
    stood = {name: np.ones(len(x), bool) for name in targets}
    for block, n in batches(np.arange(len(x)), batch_size):
        images, labels = scale(jnp.asarray(x[block])), jnp.asarray(y[block])
        for run in runs:
            first, radius = int(block[0]), eps if run.eps is None else run.eps
            with gate.checked():
                attacked = craft(rng, surrogate, images, labels, run, first=first, eps=radius)
            for name, f in targets.items():
                claims = judge(f, images, attacked, labels, eps=radius, norm="linf")
                stood[name][block[:n]] &= ~claims.fallen[:n]
    return stood
