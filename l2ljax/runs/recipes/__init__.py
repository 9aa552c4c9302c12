"""Recipes: dicts of flags one can diff. Merged in this order, later ones win:

base.FLAGS, the recipe's ALL and DATASET[dataset], base.METHOD[method], the recipe's METHOD[method]
and DATASET_METHOD[both], and then the flags of the command line.
"""

from types import ModuleType
from typing import Any

from l2ljax.runs.recipes import (
    base,
    fast_at,
    fast_bat,
    fastat_benchmark,
    grad_align,
    interp,
    l2l_code,
    l2l_v1,
    quick,
    rnn,
    small,
    trades,
)
from l2ljax.runs.recipes.base import DERIVED

__all__ = ["DERIVED", "RECIPES", "default_recipe", "flags_of"]

RECIPES: dict[str, ModuleType] = {
    "l2l_v1": l2l_v1,
    "l2l_code": l2l_code,
    "interp": interp,
    "trades": trades,
    "rnn": rnn,
    "fast_at": fast_at,
    "grad_align": grad_align,
    "fast_bat": fast_bat,
    "fastat_benchmark": fastat_benchmark,
    "quick": quick,
    "small": small,
}

QUICK = ("digits", "mnist", "fashion_mnist")

OF_METHOD = {
    "grad_l2l_interp": "interp",
    "two_step_l2l_interp": "interp",
    "trades": "trades",
    "rnn_adv": "rnn",
    "rnn_trades": "rnn",
    "fast_at": "fast_at",
    "grad_align": "grad_align",
    "n_fgsm": "fast_bat",
    "fast_bat": "fast_bat",
    "pgd2": "fast_bat",
    "pgd10": "fast_bat",
    "apgd10": "fast_bat",
}
"""The recipe in which a method was published, or is compared; the others take l2l_code's."""


def default_recipe(dataset: str, method: str) -> str:
    """Without --recipe: quick on the small data sets, elsewhere the method's own."""
    return "quick" if dataset in QUICK else OF_METHOD.get(method, "l2l_code")


def flags_of(recipe: str, dataset: str, method: str) -> dict[str, Any]:
    """Every flag of the recipe for that dataset and method."""
    module = RECIPES[recipe]
    layers = (
        base.FLAGS,
        module.ALL,
        module.DATASET.get(dataset, {}),
        base.METHOD.get(method, {}),
        module.METHOD.get(method, {}),
        module.DATASET_METHOD.get((dataset, method), {}),
    )
    return {name: value for layer in layers for name, value in layer.items()}
