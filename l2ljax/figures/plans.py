"""Plans side by side: what a machine of more devices takes, costs, holds and sends."""

import pathlib
import re
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from l2ljax.figures.style import CYCLE, new_figure, percent, save, styled
from l2ljax.plan import Plan

MARKERS = "osD^vPX*"
"""One for each kind of machine, in this order."""


@styled
def draw_plans(path: pathlib.Path, plans: Sequence[Plan]) -> pathlib.Path:
    """Hours, device-hours, memory and the share of collectives against devices.

    A line is one method with one model on one kind of machine; what does not fit is hollow.
    """
    figure = new_figure(12.5, 8.4, "What a run takes, as the machine grows")
    (hours, cost), (memory, sent) = figure.subplots(2, 2)
    lines: dict[tuple[tuple[str, str], str], list[Plan]] = {}
    for plan in plans:
        kind = re.split(r"[-x](?=\d+$)", plan.machine.name)[0]
        run = plan.config["method"], str(plan.config["model"])
        lines.setdefault((run, kind), []).append(plan)
    kinds = list(dict.fromkeys(kind for _, kind in lines))
    runs = list(dict.fromkeys(run for run, _ in lines))
    for (run, kind), found in lines.items():
        found.sort(key=lambda plan: plan.machine.devices)
        how = {
            "color": CYCLE[runs.index(run) % len(CYCLE)],
            "marker": MARKERS[kinds.index(kind) % len(MARKERS)],
            "label": f"{run[0]}, {run[1]}, {kind}",
        }
        _draw(hours, found, lambda plan: plan.hours, how)
        _draw(cost, found, lambda plan: plan.device_hours, how)
        _draw(
            memory, found, lambda plan: plan.training.memory.total / plan.machine.chip.memory, how
        )
        _draw(sent, found, _sent, how)
    for axes, label in ((hours, "hours of the run, at least"), (cost, "device-hours, at least")):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel(label)
    percent(memory, "memory of a device")
    percent(sent, "collectives, of a step's time")
    sizes = sorted({plan.machine.devices for plan in plans})
    for axes in (hours, cost, memory, sent):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("devices")
    hours.legend()
    return save(figure, path)


def _sent(plan: Plan) -> float:
    seconds = plan.training.seconds
    return seconds.collectives / (seconds.total or 1)


def _draw(axes: Axes, plans: Sequence[Plan], value: Callable[[Plan], float], how: dict) -> None:
    x, y = [plan.machine.devices for plan in plans], [value(plan) for plan in plans]
    axes.plot(x, y, **how)
    lacking = [i for i, plan in enumerate(plans) if not plan.fits]
    hollow = {**how, "label": None, "linestyle": "", "markerfacecolor": "white"}
    axes.plot([x[i] for i in lacking], [y[i] for i in lacking], **hollow)
