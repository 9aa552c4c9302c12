"""Flags of the scripts: a table, recipes under explicit flags, and one clear line for bad input.

A flag given on the command line wins over the recipe, the recipe over the base table. Radii and
steps keep the text they were given in (`8/255`), so that it is printed back as it was meant.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from absl import flags

from l2ljax.ball import Radii
from l2ljax.errors import InputError
from l2ljax.names import nearest


class UsageError(InputError):
    """Something the user asked for cannot be done; the message is one line."""


class Flag(NamedTuple):
    """A row of a flag table; kind: str, int, float, bool, "fraction", "step" or words in a tuple.

    A step is a fraction, or a multiple of the radius: `1.25eps`.
    """

    name: str
    kind: Any
    help: str
    default: Any = None


def fraction(text: str | float) -> float:
    """`0.03` or `8/255` as a finite number."""
    top, slash, bottom = str(text).partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is no number such as 0.03 or 8/255")
    return value


def step_size(text: str) -> float | Radii:
    """`0.01`, `2/255`, or a multiple of the radius as `1.25eps`."""
    number, relative, rest = text.partition("eps")
    if rest or (relative and not number):
        raise UsageError(f"{text!r} is no step such as 2/255 or 1.25eps")
    return Radii(fraction(number)) if relative else fraction(number)


def check_eps(text: str | float, norm: str = "linf") -> float:
    """The radius as a number in (0, 1], in l2 above 0; pixels live in [0, 1]."""
    eps = fraction(text)
    if norm == "l2" and eps <= 0:
        raise UsageError(f"--eps={text} must be positive")
    if norm == "linf" and not 0 < eps <= 1:
        raise UsageError(f"--eps={text} is outside (0, 1]; pixels live in [0, 1], so 8 means 8/255")
    return eps


def _define(table: Iterable[Flag]) -> flags.FlagValues:
    values = flags.FlagValues()
    common = {"flag_values": values, "module_name": "", "required": False}
    for flag in table:
        if flag.kind is int:
            flags.DEFINE_integer(flag.name, flag.default, flag.help, **common)
        elif flag.kind is float:
            flags.DEFINE_float(flag.name, flag.default, flag.help, **common)
        elif flag.kind is bool:
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, **common)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, **common)
    return values


def parse(table: Sequence[Flag], argv: Sequence[str]) -> dict[str, Any]:
    """The flags that argv gives, by name; unknown ones, bad values and bare words are refused."""
    values = _define(table)
    known = {flag.name: flag for flag in table}
    try:
        rest = values(["script", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UsageError(nearest("flag", str(error.flagname), known)) from None
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from None
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    given: dict[str, Any] = {name: values[name].value for name in known if values[name].present}
    for name, value in given.items():
        kind = known[name].kind
        if isinstance(kind, tuple) and value not in kind:
            raise UsageError(nearest(f"--{name}", value, kind))
        if kind in ("fraction", "step") or kind is float:
            try:
                step_size(value) if kind == "step" else fraction(value)
            except UsageError as error:
                raise UsageError(f"--{name}: {error}") from None
    return given


def defaults(table: Iterable[Flag]) -> dict[str, Any]:
    """The table's own defaults."""
    return {flag.name: flag.default for flag in table}


def show_help(doc: str, table: Iterable[Flag]) -> str:
    """The script's docstring and its flags, one a line."""
    lines = [doc.strip(), "", "flags:"]
    for flag in table:
        words = f" ({' | '.join(flag.kind)})" if isinstance(flag.kind, tuple) else ""
        default = "" if flag.default is None else f" [{flag.default}]"
        lines.append(f"  --{flag.name}: {flag.help}{words}{default}")
    return "\n".join(lines)


def run_main(
    name: str,
    doc: str | None,
    table: Sequence[Flag],
    body: Callable[[dict[str, Any]], int],
    argv: Sequence[str],
) -> int:
    """Parse, run, and turn every error of the user's into one line and exit code 2.

    Warnings are one line too.
    """
    from l2ljax.checkpoint import CheckpointError
    from l2ljax.data import DataError
    from l2ljax.record import RecordError

    if any(word in ("-h", "--help", "-help", "--helpfull") for word in argv):
        print(show_help(doc or name, table))
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return body(parse(table, argv))
        except (InputError, DataError, CheckpointError, RecordError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
