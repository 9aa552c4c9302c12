"""What to say when a name is in no table: the nearest one, and the rest.

The one surprising thing: there is always a nearest name, however far it is; one clear line with
the whole list serves better than a judgement about what the user may have meant.
"""

import difflib
from collections.abc import Iterable
from typing import Any

from l2ljax.errors import InputError


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """The line "unknown kind 'name': did you mean 'y'? Known: x, y, z" for an error message."""
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
