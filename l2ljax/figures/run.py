"""The pictures of one run: its curves, and what the learned attacker does."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from l2ljax.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Line,
    draw_line,
    epochs,
    log_scale,
    new_figure,
    percent,
    save,
    series,
    styled,
)
from l2ljax.record import read

PLAYERS = (("theta", "classifier θ", BLACK), ("phi", "attacker φ", GREEN))

EMA = {"linestyle": "--", "linewidth": 1.4}

ACCURACIES = (
    ("theta/clean_accuracy", "training, clean", BLUE, {"linestyle": ":"}),
    ("val/clean", "validation, clean", BLUE, {}),
    ("val/clean_ema", "validation, clean (EMA)", BLUE, EMA),
    ("theta/robust_accuracy", "training, attacked", RED, {"linestyle": ":"}),
    ("val/robust", "validation, robust", RED, {}),
    ("val/robust_ema", "validation, robust (EMA)", RED, EMA),
    ("val/fgsm", "validation, FGSM", ORANGE, {"linewidth": 1.2}),
)

BEST = (("", "best", "*"), ("_ema", "best EMA", "P"))

SHARE = (0.0, 1.0)

DIAGNOSTICS = (
    ("adequacy", "Loss it adds ÷ loss PGD-20 adds", (-0.25, 1.5), {1.0: "as strong as PGD-20"}),
    ("mean_abs_delta", "How much of the ball it uses: mean |δ| ÷ ε", SHARE, {}),
    ("at_bound", "Share of pixels where δ is at ±ε", SHARE, {}),
    (
        "cosine_pgm10",
        "Direction: cosine of its δ with PGM-10's",
        (-1.0, 1.0),
        {1.0: "the same", 0.0: "unrelated"},
    ),
    (
        "sign_agreement",
        "Share of pixels with the gradient's sign",
        SHARE,
        {1.0: "all, as FGSM", 0.5: "chance"},
    ),
    (
        "saturation",
        "Share of tanh outputs beyond ±0.99",
        SHARE,
        {1.0: "no gradient reaches φ"},
    ),
)
"""Name, what it says, the range that is shown, and what its marks mean."""


def draw_run(workdir: pathlib.Path, selects: str = "robust") -> list[pathlib.Path]:
    """curves.png of a run and, where its metrics have the attacker's diagnostics, attacker.png.

    The best epochs are those of the validation accuracy that its method `selects`.
    """
    config = json.loads((workdir / "config.json").read_text())
    lines, title = read(workdir / "metrics.jsonl"), describe(config)
    drawn = [draw_curves(workdir / "curves.png", lines, title, selects)]
    if any(name.startswith("attacker/") for line in lines for name in line):
        drawn.append(draw_attacker(workdir / "attacker.png", lines, title))
    return drawn


def describe(config: dict[str, Any]) -> str:
    """What was run, in one line."""
    return (
        f"{config['method']} on {config['dataset']}, {config['model']}, "
        f"ε = {config['eps']}, seed {config['seed']}"
    )


@styled
def draw_curves(
    path: pathlib.Path, lines: Sequence[Line], title: str, selects: str = "robust"
) -> pathlib.Path:
    """Accuracies, large; losses, learning rates and gradient norms of both players beside them.

    The best epochs are those of the validation accuracy that `selects`, robust or clean.
    """
    figure = new_figure(12.5, 7.5, title)
    panels = figure.subplot_mosaic(
        [["accuracy", "loss"], ["accuracy", "lr"], ["accuracy", "grad_norm"]],
        width_ratios=(1.3, 1),
    )
    whole = [line for line in lines if "seconds/train" in line]
    between = [line for line in lines if "seconds/train" not in line]
    _accuracies(panels["accuracy"], whole, selects)
    for player, label, colour in PLAYERS:
        # Means over an epoch, and faintly what single steps had.
        for what in ("loss", "grad_norm"):
            name = f"{player}/{what}"
            panels[what].plot(*series(between, name), color=colour, alpha=0.35, linewidth=1)
            draw_line(panels[what], *series(whole, name), color=colour, label=label)
        draw_line(panels["lr"], *series(lines, f"{player}/lr"), color=colour, label=label)
    # In the simultaneous order both players have one loss, and one curve hides the other.
    losses = [series(whole, f"{player}/loss")[1] for player, _, _ in PLAYERS]
    one = len(losses[0]) > 0 and np.array_equal(losses[0], losses[1])
    panels["loss"].set_title("Training loss, the same for both players" if one else "Training loss")
    panels["loss"].set_ylabel("loss (nats)")
    panels["lr"].set(title="Learning rates", ylabel="learning rate")
    panels["grad_norm"].set(title="Gradient norms", ylabel="ℓ2 norm")
    for name in ("lr", "grad_norm"):
        log_scale(panels[name])
    for axes in panels.values():
        epochs(axes, lines)
    for name in ("loss", "lr"):
        panels[name].set_xlabel("")
    for name, columns in (("accuracy", 3), ("grad_norm", 2)):
        _legend_below(panels[name], columns)
    return save(figure, path)


def _accuracies(axes: Axes, whole: Sequence[Line], selects: str) -> None:
    for name, label, colour, how in ACCURACIES:
        draw_line(axes, *series(whole, name), color=colour, label=label, **how)
    colour = RED if selects == "robust" else BLUE
    for suffix, label, marker in BEST:
        x, y = series(whole, f"val/{selects}{suffix}")
        if len(x):
            i = int(y.argmax())
            label = f"{label}: {100 * y[i]:.1f} %, epoch {x[i]:g}"
            axes.scatter(
                x[i], y[i], s=190, c=colour, marker=marker, ec="white", zorder=5, label=label
            )
    # What the guard has seen, also where the run went back and these epochs were played again.
    (x, low), (_, high) = (
        series(whole, f"overfitting/{name}", "overfitting/epoch") for name in ("robust", "fgsm")
    )
    axes.vlines(x, low, high, color=BLACK, linewidth=1.2, linestyle=":")
    if len(x):
        label = f"overfitted: {100 * low[0]:.0f} % robust"
        axes.scatter(x, low, s=70, c=BLACK, marker="x", zorder=6, label=label)
    percent(axes, "accuracy")
    axes.set_title("Accuracy (robust: withstands two PGM-10 attacks)")


def _legend_below(axes: Axes, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        # The pad, in font sizes, clears the axis and its label however tall the panel becomes.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, ncols=columns)


@styled
def draw_attacker(path: pathlib.Path, lines: Sequence[Line], title: str) -> pathlib.Path:
    """The six diagnostics of the learned attacker over the epochs."""
    figure = new_figure(12.5, 6.5, f"What the attacker does: {title}")
    for axes, row in zip(figure.subplots(2, 3).flat, DIAGNOSTICS, strict=True):
        _diagnostic(axes, lines, *row)
        epochs(axes, lines)
    return save(figure, path)


def _diagnostic(
    axes: Axes,
    lines: Sequence[Line],
    name: str,
    title: str,
    shown: tuple[float, float],
    marks: dict[float, str],
) -> None:
    x, y = series(lines, f"attacker/{name}")
    draw_line(axes, x, y, color=GREEN)
    low, high = shown
    axes.set_title(title)
    if shown is SHARE:
        percent(axes, name.replace("_", " "))
    else:
        margin = 0.04 * (high - low)
        axes.set(ylim=(low - margin, high + margin), ylabel=name.replace("_", " "))
    for value, meaning in marks.items():
        axes.axhline(value, color=GREY, linewidth=1.2, linestyle="--")
        # The words stand where the curve seldom is: above a goal, below a floor or the top.
        above = (low + high) / 2 < value < high
        axes.annotate(
            meaning,
            (1, value),
            (-2, 3 if above else -3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom" if above else "top",
            color=GREY,
            fontsize=9,
        )
    # Adequacy is a ratio of two small numbers early on: what lies outside is an arrow at the edge.
    for outside, edge, marker in ((y > high, high, "^"), (y < low, low, "v")):
        axes.scatter(x[outside], np.full(outside.sum(), edge), s=30, c=GREEN, marker=marker)
