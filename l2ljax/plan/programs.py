"""The two programs of a run, lowered for a machine and counted: a call of steps, and the attack.

    program = training(config, data, machine, devices, options)
    program.flops, program.memory.total, program.seconds.total

The training program is the run's own: `steps_per_call` steps in one scan, with its augmentation,
its data on the device, its layout and its donated state. What was compiled before is not compiled
again: its numbers lie in the user's cache folder, under the sha256 of the program.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax import gate
from l2ljax.attacks import parse
from l2ljax.attacks.cascade import true_float32
from l2ljax.ball import per_image, scale
from l2ljax.data import Dataset
from l2ljax.machine import cache_folder, describe
from l2ljax.parallel import ONE_DEVICE, Layout
from l2ljax.plan import compiler
from l2ljax.plan.compiler import Built, Memory
from l2ljax.plan.count import Count, Transfer, count
from l2ljax.plan.hlo import read
from l2ljax.plan.machines import Machine
from l2ljax.plan.roofline import Seconds, remarks, roofline
from l2ljax.runs.config import Config, write_json
from l2ljax.runs.feed import even
from l2ljax.runs.from_config import game_of, layout_of
from l2ljax.runs.game import Game, several
from l2ljax.runs.loop import CHUNK

HOST = {"v4": 4, "v5e": 8, "v5p": 4, "v6e": 8}
"""TPU chips of a host: validation and the final attacks use those of the first host alone."""


class Compiling(NamedTuple):
    """How programs are compiled: with how much effort, and whether what was found is kept."""

    effort: str = "full"
    cache: bool = True


class Program(NamedTuple):
    """What is known of one program: counted on one device, for one of `steps` equal parts."""

    compiled: bool
    steps: int
    memory: Memory
    flops: float
    precisions: dict[str, float]
    bytes: float | None
    """None: not known before XLA decides what is fused."""
    kernels: float
    padding: float
    moves: float
    collectives: dict[str, Transfer]
    seconds: Seconds
    xla_seconds: float | None
    compile_seconds: float
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts."""
        named = {n: t._asdict() for n, t in self.collectives.items()}
        fields = {"memory": self.memory._asdict(), "seconds": self.seconds._asdict()}
        return {**self._asdict(), **fields, "collectives": named, "remarks": list(self.remarks)}


def _program_from(content: Mapping[str, Any]) -> Program:
    named = {n: Transfer(**t) for n, t in content["collectives"].items()}
    fields = {"memory": Memory(**content["memory"]), "seconds": Seconds(**content["seconds"])}
    return Program(
        **{**content, **fields, "collectives": named, "remarks": tuple(content["remarks"])}
    )


def training(
    config: Config,
    data: Dataset,
    machine: Machine,
    devices: tuple[Any, ...],
    options: Mapping[str, Any],
    how: Compiling,
) -> Program:
    """A call of training steps, numbered by step."""
    checked = layout_on(config, machine, devices, options, real=False)
    layout = layout_on(config, machine, devices, options)
    with compiler.traced_for(machine):
        game = game_of(config, data, layout)
        per_epoch = game.steps_per_epoch
        steps = even(per_epoch, min(options["steps_per_call"] or CHUNK, per_epoch))
        arguments = _arguments(game, layout, data, steps, options["data_on"] == "host")
        lowered = layout.lower(several(game.train_step, steps), *arguments)
        rows = config["batch_size"] // checked.device_count // config["accumulate"]
        return _known(lowered, machine, steps, how, bf16=config["bf16"], rows=rows)


def layout_on(
    config: Config,
    machine: Machine,
    devices: tuple[Any, ...],
    options: Mapping[str, Any],
    *,
    real: bool = True,
) -> Layout:
    """The layout on the machine; to lower for it without its compiler, that of one device."""
    layout = layout_of(config, options["parallel"], devices or (None,) * machine.devices)
    return layout if devices or not real else ONE_DEVICE


def _arguments(
    game: Game, layout: Layout, data: Dataset, steps: int, from_host: bool
) -> tuple[Any, ...]:
    """The shapes that the loop calls the training program with (`feed.Chunk`)."""
    pmap, rows = layout.kind == "pmap", layout.rows_per_call(game.batch_size)
    ahead = (layout.device_count,) if pmap else ()
    image, dtype = math.prod(data.x_train.shape[1:]), data.x_train.dtype
    # Flat rows of pixels, as the feed brings them.
    whole = len(data.x_train)
    of_device = game.steps_per_epoch * rows if pmap else whole

    def shape(n: int, *sides: int, dtype: Any = np.int32, split: bool = True) -> Any:
        return jax.ShapeDtypeStruct((*(ahead if split else ()), n, *sides), dtype)

    if from_host:
        n = steps * rows
        x, y = layout.shapes((shape(n, image, dtype=dtype), shape(n)), split=True)
        order = layout.shapes(shape(n, split=False))
    else:
        x, y = layout.shapes(
            (shape(whole, image, dtype=dtype, split=False), shape(whole, split=False))
        )
        order = layout.shapes(shape(of_device), split=True)
    scalar = jax.ShapeDtypeStruct((), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = layout.shapes(game.abstract)
    return (state, x, y, order, *layout.shapes((scalar, key)))


def evaluation(
    config: Config,
    data: Dataset,
    machine: Machine,
    devices: tuple[Any, ...],
    options: Mapping[str, Any],
    how: Compiling,
) -> Program:
    """The attack that selects, on a device's part of a batch, numbered by pass of one image."""
    run = parse("selection").runs(data.num_classes)[0]
    rows = math.ceil(options["eval_batch"] / evaluating(machine))
    with compiler.traced_for(machine):
        game = game_of(config | {"batch_size": max(1, min(config["batch_size"], 8))}, data)
        eps = game.eps

        def attack(theta: Any, stats: Any, key: Any, x: Any, y: Any) -> Any:
            f = game.frozen(theta, stats)
            keys = per_image(key, jnp.arange(rows))
            with gate.checked(), true_float32():
                return run.play(keys, f, scale(x), y, eps=eps, norm="linf")

        layout = ONE_DEVICE._replace(devices=devices[:1])
        state = game.abstract
        image = jax.ShapeDtypeStruct((rows, *data.x_train.shape[1:]), data.x_train.dtype)
        key = jax.eval_shape(lambda: jax.random.key(0))
        labels = jax.ShapeDtypeStruct((rows,), np.int32)
        arguments = layout.shapes((state.theta, state.theta_stats, key, image, labels))
        lowered = jax.jit(attack).lower(*arguments)
        one = machine._replace(devices=1)
        return _known(lowered, one, run.cost * rows, how, bf16=False, rows=rows)


def evaluating(machine: Machine) -> int:
    """Devices of the first host, which alone validate and attack."""
    return min(machine.devices, HOST.get(machine.name.partition("-")[0], machine.devices))


def _known(
    lowered: Any, machine: Machine, steps: float, how: Compiling, *, bf16: bool, rows: int
) -> Program:
    """The program's numbers, from the cache where it was compiled before."""
    text = lowered.as_text()
    about = json.dumps(
        [describe()["jax"], describe()["jaxlib"], machine.name, steps, bf16, rows, how.effort]
    )
    digest = hashlib.sha256(f"{about}{machine}{text}".encode()).hexdigest()[:24]
    path = cache_folder("plans") / f"{digest}.json"
    if how.cache and path.exists():
        return _program_from(json.loads(path.read_text()))
    built = compiler.build(lowered, machine, how.effort)
    program = _summed(built, count(read(built.text)), machine, steps, bf16=bf16, rows=rows)
    if how.cache and built.compiled:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, program.as_json())
    return program


def _summed(
    built: Built, counted: Count, machine: Machine, steps: float, *, bf16: bool, rows: int
) -> Program:
    seconds, share = roofline(counted, machine), steps
    if not built.compiled:  # what passes between kernels is decided by XLA: the products alone
        chip = machine.chip
        products = sum(k.times * k.flops / chip.peak(k.precision) for k in counted.kernels)
        seconds, share = Seconds(products / machine.devices, 0.0, 0.0), steps * machine.devices
    parts = {
        name: Transfer(round(t.count / steps), int(t.bytes / steps))
        for name, t in counted.collectives.items()
    }
    return Program(
        compiled=built.compiled,
        steps=int(steps),
        memory=built.memory,
        flops=counted.flops / share,
        precisions={name: flops / share for name, flops in counted.precisions().items()},
        bytes=counted.bytes / steps if built.compiled else None,
        kernels=sum(k.times for k in counted.kernels) / steps,
        padding=counted.padding,
        moves=counted.share("move"),
        collectives=parts,
        seconds=Seconds(*(s / steps for s in seconds)),
        xla_seconds=built.xla_seconds,  # it counts the loop over steps once
        compile_seconds=built.compile_seconds,
        remarks=tuple(remarks(counted, machine, bf16=bf16, rows=rows, steps=max(1, int(steps)))),
    )
