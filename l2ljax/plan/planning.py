"""A run planned for a machine: does it fit, what does it compute, how long does it take?

    plan = make_plan({"method": "grad_l2l", "dataset": "cifar10", "model": "wrn-34-10"}, "h100x8")
    print(plan)
    plan.hours, plan.as_json()

The program that is compiled is the run's own: `steps_per_call` steps in one scan, with its
augmentation, its data on the device, its layout and its donated state. Beside it stands the program
of the attack that selects, from which every evaluation is costed by its number of passes. Nothing
is run, and no image is read.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from l2ljax.attacks import parse
from l2ljax.data import Dataset, outline
from l2ljax.errors import word
from l2ljax.plan import compiler, machines
from l2ljax.plan.compiler import Memory
from l2ljax.plan.machines import Machine
from l2ljax.plan.plan import Plan, memory_limit
from l2ljax.plan.programs import Compiling, Program, evaluating, evaluation, layout_on, training
from l2ljax.plugins import Plugins
from l2ljax.runs.config import Config, resolve
from l2ljax.runs.run import load_data
from l2ljax.runs.settings import OPTIONS
from l2ljax.runs.train import parse_attacks
from l2ljax.settings import defaults

PREALLOCATED = 0.75
"""Of a GPU's memory, what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""

TRIES = 3
"""Compilations that the search for a way to fit may take."""


def make_plan(
    settings: Mapping[str, Any],
    machine: str,
    *,
    plugins: Plugins | Iterable[str | pathlib.Path] = (),
    effort: str = "full",
    cache: bool = True,
) -> Plan:
    """Compile the run of these settings, the flags of `train`, for a machine that need not be here.

    Where it does not fit, up to TRIES other ways are compiled: --remat, then --accumulate, then
    both. `effort` is "full", or "quick" for a shorter compile and a slower program. Programs that
    were compiled before are not compiled again where `cache` is true.
    """
    word("effort", effort, compiler.EFFORTS)
    found, files, how = machines.find(machine), Plugins(plugins), Compiling(effort, cache)
    ways = {setting.name: setting for setting in OPTIONS}
    given = {"init_from": "none", **{k: v for k, v in settings.items() if v is not None}}
    options = defaults(OPTIONS) | {k: v for k, v in given.items() if k in ways}
    config = resolve({k: v for k, v in given.items() if k not in ways}, files)
    attacks = parse_attacks(options["final_attacks"], files)
    devices = compiler.devices_of(found)
    sizes = {name: config[name] for name in ("val_size", "train_size")}
    data = outline(config["dataset"], **sizes) or load_data(config, options["data_dir"])
    attack = evaluation(config, data, found, devices, options, how)
    program, tried, changed = _fitting(config, data, found, devices, options, how)
    final = config | changed
    layout = layout_on(final, found, devices, options, real=False)
    rows = config["batch_size"] // layout.device_count // final["accumulate"]
    fits = program.memory.total <= memory_limit(found)
    lines = list(program.remarks)
    if found.chip.platform == "gpu" and fits:
        share = program.memory.total / found.chip.memory
        if share > PREALLOCATED:
            lines.append(
                f"it needs {100 * share:.0f} % of the memory, and JAX takes "
                f"{100 * PREALLOCATED:.0f} % unless XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 is set"
            )
    if missing := compiler.missing_extra(found):
        lines.insert(0, missing)
    epochs, per_epoch = config["epochs"], len(data.x_train) // config["batch_size"]
    validations = math.ceil(epochs / options["validate_every"])
    looked = ["clean", "selection"] + ["fgsm"] * (config["method"] != "plain")
    classes, n_val, n_test = data.num_classes, len(data.x_val), len(data.x_test)
    per_validation = sum(_passes(parse(name), classes) for name in looked) * n_val
    averages = 2 if config["ema_decay"] else 1
    last = sum(_passes(attack, classes) for attack in attacks) * n_test
    return Plan(
        machine=found,
        config=final,
        layout=layout.kind,
        rows=rows,
        training=program,
        evaluation=attack,
        fits=fits,
        changed=changed,
        asked=tried,
        steps_per_epoch=per_epoch,
        validation_passes=per_validation * validations * averages,
        final_passes=last * 2 * averages,  # best and last
        evaluating=evaluating(found),
        warnings=tuple(lines),
    )


def _passes(attack: Any, classes: int) -> float:
    """Forward passes an image, of all runs of an attack; clean is one."""
    return sum(run.cost for run in attack.runs(classes)) or 1.0


def _fitting(
    config: Config,
    data: Dataset,
    machine: Machine,
    devices: tuple[Any, ...],
    options: Mapping[str, Any],
    how: Compiling,
) -> tuple[Program, Memory, dict[str, Any]]:
    """The training program that fits, the memory of the one asked for, and what was changed."""
    limit = memory_limit(machine)
    first = program = training(config, data, machine, devices, options, how)
    changed: dict[str, Any] = {}
    for way in _ways(config, machine, first, limit):
        if program.memory.total <= limit or not program.compiled:
            break
        program, changed = training(config | way, data, machine, devices, options, how), way
    return program, first.memory, changed


def _ways(
    config: Config, machine: Machine, program: Program, limit: float
) -> Iterable[dict[str, Any]]:
    """Other settings that need less memory, the one that changes least first."""
    free = limit - program.memory.arguments - program.memory.code
    parts = max(2, 2 ** math.ceil(math.log2(max(1.0, program.memory.temporaries / max(free, 1.0)))))
    pieces = config["batch_size"] // machine.devices
    most = max((n for n in range(1, pieces + 1) if pieces % n == 0 and n <= 2 * parts), default=1)
    fewer = min((n for n in range(parts, pieces + 1) if pieces % n == 0), default=most)
    ways: list[dict[str, Any]] = []
    if str(config["model"]).startswith(("wrn", "preact", "resnet")) and not config["remat"]:
        ways.append({"remat": True})
    ways.append({"accumulate": config["accumulate"] * fewer})
    ways.append({"accumulate": config["accumulate"] * fewer, **(ways[0] if len(ways) > 1 else {})})
    return ways[:TRIES]
