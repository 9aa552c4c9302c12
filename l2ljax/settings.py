"""A setting: something a user chooses, by a flag of a command or by a keyword of a call.

    Setting("noise", float, "half-width of the noise in radii", 2.0, ">= 0")

Radii and steps keep the text in which they were given (`8/255`, `1.25eps`), so that it is printed
back as it was meant. A function that makes something, such as a training method, says its settings
in its signature, and `settings_of` reads them there:

    def n_fgsm(*, noise: Annotated[float, "half-width of the noise in radii", ">= 0"]) -> Method:
"""

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Iterable
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NewType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from l2ljax.ball import Radii
from l2ljax.errors import InputError, nearest, word
from l2ljax.gate import check_eps as check_radius

Fraction = NewType("Fraction", float)
"""The type of a setting that is given as a number or as a text such as 8/255."""

BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "": ("", lambda value: True),
    "> 0": ("must be positive", lambda value: value > 0),
    ">= 0": ("must not be negative", lambda value: value >= 0),
    "[0, 1)": ("must lie in [0, 1)", lambda value: 0 <= value < 1),
    "[0, 1]": ("must lie in [0, 1]", lambda value: 0 <= value <= 1),
    "(0, 1)": ("must lie between 0 and 1", lambda value: 0 < value < 1),
}
"""Where a number may lie: what is said when it does not, and the test."""


class Setting(NamedTuple):
    """A row of a table of settings.

    kind: str, int, float, bool, "fraction", "step" or a tuple of the allowed words. A fraction is
    a number such as 0.03 or 8/255; a step is a fraction or a multiple of the radius, `1.25eps`.
    bounds: one of BOUNDS. A setting whose value is None has no value, and is not checked.
    """

    name: str
    kind: Any
    help: str
    default: Any = None
    bounds: str = ""

    def check(self, value: Any, prefix: str = "") -> Any:
        """The value, a text such as `8/255` as the number that it means.

        An InputError unless the setting may have it; its line begins with the prefix, `--` for a
        flag, and the setting's name.
        """
        name = prefix + self.name
        if value is None:
            return value
        if isinstance(self.kind, tuple):
            word(name, value, self.kind)
            return value
        try:
            read = self._read(value)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        number = read.number if isinstance(read, Radii) else read
        if self.bounds and self.kind is not str and not self.allows(number):
            raise InputError(f"{name}={value} {BOUNDS[self.bounds][0]}")
        return read

    def allows(self, number: float) -> bool:
        """Whether a number lies within the bounds."""
        return BOUNDS[self.bounds][1](number)

    def _read(self, value: Any) -> Any:
        if self.kind == "step":
            return step_size(value)
        if self.kind in ("fraction", float):
            return fraction(value)
        if self.kind is int:
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise InputError(f"{value!r} is no whole number")
            return int(value)
        if not isinstance(value, self.kind):
            raise InputError(f"{value!r} is no {'text' if self.kind is str else 'true or false'}")
        return value


def fraction(text: str | float) -> float:
    """`0.03` or `8/255` as a finite number."""
    top, slash, bottom = str(text).partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{text!r} is no number such as 0.03 or 8/255")
    return value


def step_size(text: str | float | Radii) -> float | Radii:
    """`0.01`, `2/255`, or a multiple of the radius as `1.25eps`."""
    if isinstance(text, Radii):
        return text
    number, relative, rest = str(text).partition("eps")
    if rest or (relative and not number):
        raise InputError(f"{text!r} is no step such as 2/255 or 1.25eps")
    return Radii(fraction(number)) if relative else fraction(number)


def check_eps(text: str | float, norm: str = "linf") -> float:
    """The radius as a number in (0, 1], in l2 above 0."""
    try:
        eps = fraction(text)
        check_radius(eps, norm)
    except InputError as error:
        _, _, said = str(error).partition(" ")
        raise InputError(f"--eps={text} {said}".replace("8 / 255", "8/255")) from None
    return eps


def seeds_of(text: str) -> list[int]:
    """The numbers in `--seeds=0,1,2`."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise InputError(f"--seeds={text} is no list of whole numbers such as 0,1,2")
    return seeds


def defaults(table: Iterable[Setting]) -> dict[str, Any]:
    """The table's own defaults."""
    return {setting.name: setting.default for setting in table}


def settings_of(function: Callable[..., Any], *, all_said: bool = True) -> list[Setting]:
    """The settings that the keyword-only parameters of a function declare.

    Without `all_said` a function or a class may have other parameters too, and every one that is
    annotated in this way is a setting, such as a field of a linen module.

    Each is annotated `Annotated[type, "help text"]` or `Annotated[type, "help text", "bounds"]`.
    The type is str, int, float, bool, `Literal` words, `Fraction` for a number that is written as
    8/255, or `float | Radii` for a step.
    """
    # flax.nnx hides the signature of a class; that of a linen class, a dataclass, is its fields.
    is_plain_class = isinstance(function, type) and not dataclasses.is_dataclass(function)
    made = function.__init__ if is_plain_class else function
    hints = get_type_hints(made, include_extras=True)
    found = []
    for name, parameter in inspect.signature(made).parameters.items():
        hint = hints.get(name)
        is_said = get_origin(hint) is Annotated
        if not is_said and not (all_said and parameter.kind is parameter.KEYWORD_ONLY):
            continue
        if not is_said:
            raise InputError(
                f"{function.__name__}: the keyword {name} must say what it is, as in "
                f'{name}: Annotated[float, "what it does", "> 0"]'
            )
        kind, about, *rest = get_args(hint)
        bounds = rest[0] if rest else ""
        if bounds not in BOUNDS:
            raise InputError(nearest(f"bounds of {function.__name__}'s {name}", bounds, BOUNDS))
        default = None if parameter.default is parameter.empty else parameter.default
        found.append(Setting(name, _kind(function, name, kind), about, default, bounds))
    return found


def _kind(function: Callable[..., Any], name: str, hint: Any) -> Any:
    """The kind of a setting, from the type of its parameter."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType) and Radii in get_args(hint):
        return "step"
    if hint is Fraction:
        return "fraction"
    if hint in (str, int, float, bool):
        return hint
    raise InputError(
        f"{function.__name__}: the keyword {name} is of {hint}; a setting is str, int, float, "
        "bool, Literal words, Fraction or float | Radii"
    )
