"""Pictures where there is matplotlib, one line where there is not."""

import sys
from types import ModuleType


def figures_or_none() -> ModuleType | None:
    """The package `figures`; None, and one line, if the extra plots is not installed."""
    try:
        from l2ljax import figures
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("no pictures: they need pip install 'l2ljax[plots]'", file=sys.stderr)
        return None
    return figures
