"""Recipes: the settings of a run, as layers of which later ones win:

base.FLAGS, the recipe's `all` and `dataset[dataset]`, base.METHOD[method], the recipe's
`method[method]` and `dataset_method[both]`, and then what the user sets. A method of the user's own
begins with the defaults in its signature, and a recipe of the user's own is a `Recipe`, or a dict
of settings.
"""

from collections.abc import Mapping
from typing import Any

from l2ljax.errors import InputError
from l2ljax.plugins import Plugins
from l2ljax.runs.recipes import base, fast, papers
from l2ljax.runs.recipes.base import DERIVED, Recipe

__all__ = ["DERIVED", "RECIPES", "Recipe", "default_recipe", "find_recipe", "layers_of"]

RECIPES: dict[str, Recipe] = {
    "l2l_v1": papers.L2L_V1,
    "l2l_code": papers.L2L_CODE,
    "interp": papers.INTERP,
    "trades": papers.TRADES,
    "rnn": papers.RNN,
    "fast_at": fast.FAST_AT,
    "grad_align": fast.GRAD_ALIGN,
    "fast_bat": fast.FAST_BAT,
    "fastat_benchmark": fast.FASTAT_BENCHMARK,
    "quick": base.QUICK,
    "small": base.SMALL,
}

QUICK = ("digits", "mnist", "fashion_mnist")
"""The data sets whose runs take the recipe `quick` where none is named."""

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


def find_recipe(name: str, plugins: Plugins) -> Recipe:
    """The recipe of that name, the package's or the user's own."""
    found = plugins.find("recipe", name, RECIPES)
    if isinstance(found, Recipe):
        return found
    if isinstance(found, Mapping):
        return Recipe("", found)
    raise InputError(
        f"recipe {name} is a {type(found).__name__}: it must be a dict of settings or a "
        "l2ljax.runs.recipes.Recipe"
    )


def layers_of(recipe: Recipe, dataset: str, method: str) -> dict[str, Any]:
    """Every setting of the recipe for that data set and method."""
    layers = (
        base.FLAGS,
        recipe.all,
        recipe.dataset.get(dataset, {}),
        base.METHOD.get(method, {}),
        recipe.method.get(method, {}),
        recipe.dataset_method.get((dataset, method), {}),
    )
    return {name: value for layer in layers for name, value in layer.items()}
