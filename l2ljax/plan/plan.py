"""A plan: a run on a machine that is not here, and how it is printed."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from l2ljax.machine import describe
from l2ljax.plan.compiler import Memory
from l2ljax.plan.machines import Machine
from l2ljax.plan.programs import Program
from l2ljax.runs.config import Config

MARGIN = 0.10
"""Of a device's memory, what is left free: cuDNN's workspaces, what autotuning tries, and what the
runtime keeps for itself are not known without a device."""


class Plan(NamedTuple):
    """A run on a machine that is not here; prints as the command does."""

    machine: Machine
    config: Config
    layout: str
    rows: int
    """Images of a batch that a device sees at once."""
    training: Program
    evaluation: Program
    fits: bool
    changed: dict[str, Any]
    """The settings with which it fits, where those asked for do not; empty: nothing was changed."""
    asked: Memory
    """The memory that the settings asked for need."""
    steps_per_epoch: int
    validation_passes: float
    """Forward passes of one image, of all validations of the run; a gradient counts as three."""
    final_passes: float
    evaluating: int
    """Devices that validate and attack."""
    warnings: tuple[str, ...]

    @property
    def step_seconds(self) -> float:
        """Of one training step, by the roofline."""
        return self.training.seconds.total

    @property
    def pass_seconds(self) -> float:
        """Of the attack that selects, a forward pass of one image on all devices that evaluate."""
        return self.evaluation.seconds.total / self.evaluating

    @property
    def epoch_seconds(self) -> float:
        """Of the steps of one epoch."""
        return self.step_seconds * self.steps_per_epoch

    @property
    def hours(self) -> float:
        """Of the whole run with its validations and its final attacks."""
        passes = (self.validation_passes + self.final_passes) * self.pass_seconds
        return (self.epoch_seconds * self.config["epochs"] + passes) / 3600

    @property
    def device_hours(self) -> float:
        """What is rented: hours times devices."""
        return self.hours * self.machine.devices

    def as_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts."""
        return {
            "machine": self.machine.name,
            "devices": self.machine.devices,
            "layout": self.layout,
            "config": dict(self.config),
            "rows_per_device": self.rows,
            "fits": self.fits,
            "changed": self.changed,
            "memory_limit": memory_limit(self.machine),
            "asked": self.asked._asdict(),
            "training": self.training.as_json(),
            "evaluation": self.evaluation.as_json(),
            "steps_per_epoch": self.steps_per_epoch,
            "step_seconds": self.step_seconds,
            "epoch_seconds": self.epoch_seconds,
            "validation_passes": self.validation_passes,
            "final_passes": self.final_passes,
            "hours": self.hours,
            "device_hours": self.device_hours,
            "warnings": list(self.warnings),
            "made_with": describe(),
        }

    def __str__(self) -> str:
        """What the command prints."""
        return "\n".join(_lines(self))


def memory_limit(machine: Machine) -> float:
    """The bytes of a device that a plan may use."""
    return (1 - MARGIN) * machine.chip.memory


def _lines(plan: Plan) -> Iterable[str]:
    """The plan in words: what fits, what a step does, and what the run costs."""
    config, program, machine = plan.config, plan.training, plan.machine
    kind = "bfloat16" if config["bf16"] else "float32"
    yield (
        f"{config['method']} on {config['dataset']}, {config['model']}, batches of "
        f"{config['batch_size']} in {kind}, on {machine.name}: {_devices(machine.devices)}, layout "
        f"{plan.layout}, {plan.rows} images each"
    )
    yield f"memory      {_memory(program.memory)} of {_gib(memory_limit(machine))} ({_fit(plan)})"
    if plan.changed:
        way = " ".join(f"--{k}={str(v).lower()}" for k, v in plan.changed.items())
        yield f"            with {way}; as asked for: {_memory(plan.asked)}"
    how = "compiled" if program.compiled else "lowered, not optimised"
    shares = ", ".join(
        f"{100 * f / program.flops:.1f} % {n}" for n, f in program.precisions.items()
    )
    yield f"a step      {program.flops:.3g} FLOPs a device ({shares}) [{how}]"
    if program.bytes is not None:
        yield (
            f"            {_gib(program.bytes)} between {program.kernels:.0f} kernels and memory, "
            f"{100 * program.moves:.0f} % of it to reorder arrays"
        )
    for name, transfer in program.collectives.items():
        yield f"            {transfer.count} x {name}, {transfer.bytes / 2**20:.1f} MiB"
    seconds = program.seconds
    yield (
        f"time        at least {_time(seconds.total)} a step: kernels {_time(seconds.kernels)}, "
        f"launches {_time(seconds.launches)}, collectives {_time(seconds.collectives)} "
        "[estimated: roofline]"
    )
    if program.xla_seconds is not None:
        seconds = _time(program.xla_seconds)
        yield f"            {seconds} a step [estimated: XLA's own, loops counted once]"
    passes = (plan.validation_passes + plan.final_passes) * plan.pass_seconds
    yield (
        f"the run     {config['epochs']} epochs of {plan.steps_per_epoch} steps, at least "
        f"{_time(plan.epoch_seconds)} an epoch, and {_time(passes)} of validations and final "
        f"attacks on {_devices(plan.evaluating)}"
    )
    yield f"it costs    at least {plan.hours:.3g} hours, {plan.device_hours:.3g} device-hours"
    yield from (f"remark      {line}" for line in plan.warnings)


def _devices(number: int) -> str:
    return f"{number} device{'s' * (number > 1)}"


def _fit(plan: Plan) -> str:
    if not plan.training.compiled:
        return "without temporaries, which are not known"
    margin = f"{100 * MARGIN:.0f} % are left free"
    return f"it fits; {margin}" if plan.fits else f"IT DOES NOT FIT; {margin}"


def _memory(memory: Memory) -> str:
    return (
        f"{_gib(memory.total)}: arguments {_gib(memory.arguments)}, temporaries "
        f"{_gib(memory.temporaries)}, code {_gib(memory.code + memory.results)},"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
