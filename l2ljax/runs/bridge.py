"""TEMPORARY: today's core behind tomorrow's names."""

# ruff: noqa
import inspect

import l2ljax.data as data_
from l2ljax.functional import functional, initialise
from l2ljax.models import make_classifier as old_classifier
from l2ljax.parallel import ONE as ONE_DEVICE


def make_classifier(made, num_classes, *, shape, key, **rest):
    if isinstance(made, str):
        return old_classifier(made, num_classes, **rest)
    takes = inspect.signature(made).parameters
    return made(**{k: v for k, v in {"num_classes": num_classes, **rest}.items() if k in takes})


def as_apply(model, key, x):
    return functional(model), *initialise(model, key, x)


def as_dataset(d):
    return d


def check_name(name, plugins):
    from l2ljax.errors import InputError, nearest

    if name not in data_.DATASETS and not name.startswith("npz:") and ".py:" not in name:
        raise InputError(nearest("dataset", name, [*data_.DATASETS, "npz:PATH"]))
