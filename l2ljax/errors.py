"""The errors for whatever a caller can mend, and the line that names the nearest known word.

Every message is one line that says what was seen and what to do. The commands print it without a
traceback and end with exit code 2.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something was given that cannot be right, or cannot be served."""


class DataError(InputError):
    """A data set that cannot be found, read or used."""


class CheckpointError(InputError):
    """No usable checkpoint was found, or none could be written."""


class RecordError(InputError):
    """The metrics of a run cannot be read or written."""


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """The line "unknown kind 'name': did you mean 'y'? Known: x, y, z".

    There is always a nearest name, however far it is: the whole list stands beside it, and the
    reader judges better than we do what was meant.
    """
    known = list(known)
    folded = {item.lower(): item for item in reversed(known)}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.0)
    guess = f" did you mean {folded[close[0]]!r}?" if close else ""
    return f"unknown {kind} {name!r}:{guess} Known: {', '.join(known) or 'none'}"


def word(kind: str, given: Any, known: Iterable[Any]) -> None:
    """An InputError that names the nearest known word, unless `given` is one of them."""
    known = list(known)
    if given not in known:
        raise InputError(nearest(kind, str(given), map(str, known)))
