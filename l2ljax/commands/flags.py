"""Flags of the commands: a table of settings, and one clear line for bad input.

A flag given on the command line wins over the recipe, the recipe over what a method begins with."""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from absl import flags

from l2ljax.errors import InputError, nearest
from l2ljax.plugins import Plugins, split
from l2ljax.settings import Setting

PLUGINS = Setting(
    "plugins", str, "files of your own, joined by commas, that a run or a flag names", ""
)

COMPILATION_CACHE = Setting(
    "compilation_cache", str, "folder of compiled programs; empty turns it off", "user"
)

DATA_DIR = Setting("data_dir", str, "where the data set lies; the user's cache folder")

Table = Sequence[Setting] | Callable[[Sequence[str]], Sequence[Setting]]
"""The flags of a command, or a function that adds those which plug-ins on a command line take."""


def plugins_of(argv: Sequence[str]) -> tuple[Plugins, dict[str, str]]:
    """The user's own files that a command line names, and the flags that name them."""
    plugins, words = Plugins(), {}
    for argument in argv:
        name, _, value = argument.lstrip("-").partition("=")
        if name == PLUGINS.name:
            for file in files_of({name: value}):
                plugins.add(file)
        elif split(value) is not None and "," not in value:
            words[name] = plugins.take(value)
    return plugins, words


def files_of(options: dict[str, Any]) -> list[str]:
    """The files in --plugins."""
    return [file for file in options[PLUGINS.name].split(",") if file]


def _define(table: Iterable[Setting]) -> flags.FlagValues:
    values = flags.FlagValues()
    common = {"flag_values": values, "module_name": "", "required": False}
    for flag in table:
        if flag.kind is int:
            flags.DEFINE_integer(flag.name, flag.default, flag.help, **common)
        elif flag.kind is bool:
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, **common)
        else:
            default = None if flag.default is None else str(flag.default)
            flags.DEFINE_string(flag.name, default, flag.help, **common)
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
        read = known[name].check(value, "--")
        if known[name].kind is float:
            given[name] = read
    return given


def numbers(name: str, text: str) -> list[int]:
    """`0,1,2` as numbers, such as the seeds of --seeds."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise InputError(f"--{name}={text} is no list of whole numbers such as 0,1,2")
    return found


def show_help(doc: str, table: Iterable[Setting]) -> str:
    """The command's docstring and its flags, one a line."""
    lines = [doc.strip(), "", "flags:"]
    for flag in table:
        words = f" ({' | '.join(map(str, flag.kind))})" if isinstance(flag.kind, tuple) else ""
        default = "" if flag.default is None else f" [{flag.default}]"
        lines.append(f"  --{flag.name}: {flag.help}{words}{default}")
    return "\n".join(lines)


def run_main(
    name: str,
    doc: str | None,
    table: Table,
    body: Callable[[dict[str, Any]], int],
    argv: Sequence[str],
) -> int:
    """Parse, run, and turn every error of the user's into one line and exit code 2.

    Warnings are one line too.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            flags = table(argv) if callable(table) else table
            if any(word in ("-h", "--help", "-help", "--helpfull") for word in argv):
                print(show_help(doc or name, flags))
                return 0
            return body(parse(flags, argv))
        except InputError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


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
