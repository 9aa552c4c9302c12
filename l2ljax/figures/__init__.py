"""The pictures: a run's curves and its attacker, a sheet of perturbations, runs side by side.

    draw_run(workdir)    # curves.png and, for a method that learns, attacker.png
    draw_perturbations(path, x, {"PGM-10": delta}, y, predictions, eps=eps, class_names=names)
    draw_comparison(path, {"pgm": lines}, {"pgm": {"clean": (accuracy, low, high)}})
    draw_transfer(path, report)    # what transfer.py writes
    draw_robustness(path, {"pgm": curves}, title)    # what curves.py returns
    draw_surfaces(path, {"": surface}, title, eps=eps, names=names)    # of l2ljax.masking
    draw_imitation(path, cells, steps)    # of l2ljax.imitation.comparison; draw_accuracies too

Needs matplotlib (extra: plots), so the scripts import this package only when they draw.
"""

from l2ljax.figures.comparison import draw_comparison
from l2ljax.figures.curves import draw_robustness
from l2ljax.figures.imitation import draw_accuracies, draw_imitation
from l2ljax.figures.masking import draw_surfaces
from l2ljax.figures.run import draw_run
from l2ljax.figures.sheet import draw_perturbations
from l2ljax.figures.transfer import draw_transfer

__all__ = [
    "draw_accuracies",
    "draw_comparison",
    "draw_imitation",
    "draw_perturbations",
    "draw_robustness",
    "draw_run",
    "draw_surfaces",
    "draw_transfer",
]
