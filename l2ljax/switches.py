"""How a model is told whether it trains: by an argument of its call, or by a field.

A model with statistics and no switch is refused, because its BatchNorm would stay in one mode
without a word.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from l2ljax.errors import InputError
from l2ljax.types import Tree

SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""The names by which models take whether they train, and the value that says so."""


def _parameters(module: Any) -> Mapping[str, Any]:
    return inspect.signature(module.__call__).parameters


def features_asked(module: Any, features: bool) -> dict[str, Any]:
    """The keyword of a call that asks for what the last layer sees, in place of the logits."""
    if not features:
        return {}
    if "features" not in _parameters(module):
        raise InputError(
            f"{type(module).__name__} gives no features: its __call__ has no such keyword"
        )
    return {"features": True}


def switched(module: Any, train: bool) -> tuple[Any, dict[str, Any]]:
    """The module and the keywords of its call that make it train, or not."""
    values = {name: value == train for name, value in SWITCHES.items()}
    called = _parameters(module)
    keywords = {name: value for name, value in values.items() if name in called}
    fields = _fields(module) & values.keys()
    if not keywords and fields:
        module = module.clone(**{name: values[name] for name in fields})
    return module, keywords


def _fields(module: Any) -> set[str]:
    if not dataclasses.is_dataclass(module):
        return set()
    return {field.name for field in dataclasses.fields(module)}


def check_switch(module: Any, stats: Tree) -> None:
    """An InputError if the module keeps statistics and has no switch."""
    if not stats or SWITCHES.keys() & (_parameters(module).keys() | _fields(module)):
        return
    raise InputError(
        f"{type(module).__name__} keeps statistics ({', '.join(stats)}), and nothing tells it "
        "whether it trains: give its __call__ an argument train and write "
        "nn.BatchNorm(use_running_average=not train); "
        f"{', '.join(name for name in SWITCHES if name != 'train')} are understood too"
    )
