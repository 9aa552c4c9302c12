"""A recipe of your own: a dict of settings, or a `Recipe` with layers for data sets and methods.

    python experiments/train.py --recipe=examples/own_recipe.py:tiny
    python experiments/train.py --recipe=examples/own_recipe.py:by_method --method=pgm

What a recipe does not say is as in the package (`l2ljax/runs/recipes/base.py`), and a flag wins
over the recipe. A setting that does not exist is refused in one line.
"""

from l2ljax.runs.recipes import Recipe

tiny = {
    "model": "mlp",
    "attacker": "two_layer",
    "attacker_width": 0.0625,
    "eps": "0.1",
    "epochs": 2,
    "batch_size": 128,
    "theta_lr": 0.1,
}

by_method = Recipe(
    "The same for all, and other steps for the PGM Net.",
    all=tiny,
    dataset={"cifar10": {"model": "small_cnn", "eps": "8/255"}},
    method={"pgm": {"inner_steps": 3, "inner_step": "0.5eps"}},
)
