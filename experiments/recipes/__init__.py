"""Recipes: dicts of flags one can diff. Merged in this order, later ones win:

base.FLAGS, then the recipe's ALL, DATASET[dataset], METHOD[method], DATASET_METHOD[both], and
then the flags of the command line.
"""

from types import ModuleType
from typing import Any

from recipes import base, l2l_code, l2l_v1, quick

RECIPES: dict[str, ModuleType] = {"l2l_v1": l2l_v1, "l2l_code": l2l_code, "quick": quick}

DEFAULT = {"digits": "quick", "mnist": "quick", "fashion_mnist": "quick"}
"""Without --recipe; every other dataset, a user's own included, takes l2l_code's settings."""


def flags_of(recipe: str, dataset: str, method: str) -> dict[str, Any]:
    """Every flag of the recipe for that dataset and method."""
    module = RECIPES[recipe]
    layers = (
        base.FLAGS,
        module.ALL,
        module.DATASET.get(dataset, {}),
        module.METHOD.get(method, {}),
        module.DATASET_METHOD.get((dataset, method), {}),
    )
    return {name: value for layer in layers for name, value in layer.items()}
