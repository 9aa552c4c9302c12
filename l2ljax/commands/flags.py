"""Flags of the scripts: a table, recipes under explicit flags, and one clear line for bad input.

A flag given on the command line wins over the recipe, the recipe over the base table. Radii and
steps keep the text they were given in (`8/255`), so that it is printed back as it was meant.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags

from l2ljax.errors import InputError, nearest
from l2ljax.settings import Setting


def _define(table: Iterable[Setting]) -> flags.FlagValues:
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


def parse(table: Sequence[Setting], argv: Sequence[str]) -> dict[str, Any]:
    """The flags that argv gives, by name; unknown ones, bad values and bare words are refused."""
    values = _define(table)
    known = {flag.name: flag for flag in table}
    try:
        rest = values(["script", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise InputError(nearest("flag", str(error.flagname), known)) from None
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from None
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    given: dict[str, Any] = {name: values[name].value for name in known if values[name].present}
    for name, value in given.items():
        known[name].check(value, "--")
    return given


def show_help(doc: str, table: Iterable[Setting]) -> str:
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
    table: Sequence[Setting],
    body: Callable[[dict[str, Any]], int],
    argv: Sequence[str],
) -> int:
    """Parse, run, and turn every error of the user's into one line and exit code 2.

    Warnings are one line too.
    """
    if any(word in ("-h", "--help", "-help", "--helpfull") for word in argv):
        print(show_help(doc or name, table))
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return body(parse(table, argv))
        except InputError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
