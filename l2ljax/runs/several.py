"""Several runs side by side: their classifiers by short names, if they may be compared.

    workdirs = short_names(["runs/digits-pgm-0", "runs/digits-plain-1"])
    configs, eps = read_comparable(workdirs, eps=None, split="test", plugins=files)
    opened = open_classifiers(workdirs, which="best", plugins=files)

All nets compute in float32, also those that were trained in bfloat16 (`Game.frozen`).
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.tree_util import Partial

from l2ljax.checkpoint import fingerprint
from l2ljax.errors import InputError
from l2ljax.plugins import Plugins
from l2ljax.runs import config as configuration
from l2ljax.runs.config import Config
from l2ljax.runs.run import load_run
from l2ljax.settings import check_eps, fraction


class OpenedRun(NamedTuple):
    """The classifier of a run in eval mode, and what identifies it."""

    workdir: str
    config: dict[str, Any]
    step: int
    sha256: str
    f: Partial


def short_names(workdirs: Sequence[str]) -> dict[str, str]:
    """Name -> workdir: the folder's own name, or the whole path where two have the same."""
    names = {workdir: pathlib.Path(workdir).resolve().name for workdir in workdirs}
    several = {name for name in names.values() if [*names.values()].count(name) > 1}
    return {workdir if name in several else name: workdir for workdir, name in names.items()}


def read_comparable(
    workdirs: Mapping[str, str], *, eps: str | None, split: str, plugins: Plugins
) -> tuple[dict[str, Config], str]:
    """Configurations of runs that may be compared, and the radius as text: eps, or their own."""
    configs = {name: configuration.read(workdir, plugins) for name, workdir in workdirs.items()}

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


def open_classifiers(
    workdirs: Mapping[str, str], *, which: str, plugins: Plugins
) -> dict[str, OpenedRun]:
    """Every classifier by its name; those of one architecture are compiled once."""
    opened, programs = {}, {}
    for name, workdir in workdirs.items():
        run = load_run(workdir, which, plugins=plugins)
        weights, data = (run.theta, run.theta_stats), run.game.data
        architecture = run.config["model"], run.config["dropout"], data.mean, data.std
        f = programs.setdefault(architecture, run.game.frozen)(*weights)
        opened[name] = OpenedRun(workdir, run.config, run.step, fingerprint(weights), f)
    return opened
