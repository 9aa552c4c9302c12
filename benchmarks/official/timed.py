# pyright: reportMissingImports=false
"""One timed run of AutoAttack, ours or the official one, in the process that calls it."""

import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from l2ljax.attacks.autoattack import VERSIONS, Budget, autoattack, plan
from l2ljax.attacks.cascade import CLEAN, Run
from l2ljax.ball import scale
from l2ljax.errors import InputError
from l2ljax.machine import prepare
from l2ljax.runs.run import load_data, load_run
from l2ljax.settings import fraction
from official import attacks
from official.bridge import nchw
from official.twin import twin


def play(options: dict[str, Any]) -> dict[str, Any]:
    """One run of one side in this process: seconds and accuracy by attack."""
    prepare(options["compilation_cache"])
    run = load_run(options["workdir"], options["which"])
    config = run.config
    if not config["model"].startswith("wrn"):
        raise InputError(f"{run.workdir} is a {config['model']}; a torch twin is there for wrn-D-K")
    data = load_data(config, options["data_dir"])
    n = options["images"]
    x, y = np.asarray(scale(jnp.asarray(data.x_test[:n]))), np.asarray(data.y_test[:n])
    eps = fraction(options["eps"] or config["eps"])
    budget = [int(number) for number in options["budget"].split(",")]
    settings = {"eps": eps, "norm": options["norm"], "batch_size": min(options["batch_size"], n)}
    f = run.classifier
    if options["side"] == "ours":
        result = _ours(f, x, y, data.num_classes, budget, settings)
    else:
        result = _official(run.theta, run.theta_stats, data, x, y, budget, settings)
    cost: Any = jax.jit(f).lower(x[:1]).compile().cost_analysis()
    return result | {
        "mflop": float(cost["flops"]) / 1e6,
        "model": config["model"],
        "run": f"{config['dataset']} {config['method']}",
        "eps": eps,
    }


def _ours(f, x, y, classes, budget, settings) -> dict[str, Any]:
    def run(x, y, budget):
        clock = _Clock()
        began = time.perf_counter()
        result = autoattack(
            jax.random.key(0), f, x, y, budget=budget, on_progress=clock, **settings
        )
        total = time.perf_counter() - began
        return result, clock, total

    first, apgd_steps = settings["batch_size"], budget[0]
    # APGD's program depends on its number of steps, no other on any number.
    _, _, compiling = run(x[:first], y[:first], Budget(apgd_steps, 1, 1, 1))
    whole = Budget(*budget)
    result, clock, total = run(x, y, whole)
    return {
        "seconds": clock.by_attack(plan(VERSIONS["standard"], whole, classes)),
        "total": total,
        "before": compiling,
        "accuracy": result.accuracy,
    }


class _Clock:
    """Seconds of wall time by number of the cascade's run, filled in by its progress."""

    def __init__(self):
        self.runs: dict[int, float] = {}
        self.last = time.perf_counter()

    def __call__(self, state: Any) -> None:
        now = time.perf_counter()
        self.runs[state.run] = self.runs.get(state.run, 0.0) + now - self.last
        self.last = now

    def by_attack(self, runs: Sequence[Run]) -> dict[str, float]:
        """A targeted attack is one run for every target."""
        seconds = dict.fromkeys((run.name for run in runs), 0.0)
        for number, spent in self.runs.items():
            if number > CLEAN:
                seconds[runs[number].name] += spent
        return seconds


def _official(theta, stats, data, x, y, budget, settings) -> dict[str, Any]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = twin(theta, stats, mean=data.mean, std=data.std)
    began = time.perf_counter()
    model(nchw(x[: settings["batch_size"]]).requires_grad_()).sum().backward()
    before = time.perf_counter() - began
    began = time.perf_counter()
    result = attacks.standard(model, x, y, seed=0, budget=attacks.Budget(*budget), **settings)
    total = time.perf_counter() - began
    return {
        "seconds": result.seconds,
        "total": total,
        "before": before,
        "accuracy": result.accuracy,
    }
