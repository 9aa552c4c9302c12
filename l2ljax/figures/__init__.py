"""The pictures: a run's curves and its attacker, a sheet of perturbations, runs side by side.

    draw_run(workdir)    # curves.png and, for a method that learns, attacker.png
    draw_sheet(workdir, path, columns=8)    # a run's perturbations
    draw_perturbations(path, x, {"PGM-10": delta}, y, predictions, eps=eps, class_names=names)
    draw_comparison(path, {"pgm": lines}, {"pgm": {"clean": (accuracy, low, high)}})
    draw_transfer(path, report)    # evaluation.transfer, as JSON
    draw_robustness(path, {"pgm": curves}, title)    # evaluation.curves
    draw_surfaces(path, {"": surface}, title, eps=eps, names=names)    # of l2ljax.masking
    draw_plans(path, plans)    # of l2ljax.plan

Needs matplotlib (extra: plots), so the scripts import this package only when they draw.
"""

from l2ljax.figures.comparison import (
    draw_accuracies,
    draw_comparison,
    draw_imitation,
    draw_inner_optimisers,
    draw_transfer,
)
from l2ljax.figures.evaluation import draw_robustness, draw_surfaces
from l2ljax.figures.plans import draw_plans
from l2ljax.figures.run import draw_run
from l2ljax.figures.style import draw_perturbations, draw_sheet

__all__ = [
    "draw_accuracies",
    "draw_comparison",
    "draw_imitation",
    "draw_inner_optimisers",
    "draw_perturbations",
    "draw_plans",
    "draw_robustness",
    "draw_run",
    "draw_sheet",
    "draw_surfaces",
    "draw_transfer",
]
