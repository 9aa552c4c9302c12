"""The commands of the package: `l2ljax train --help`, or `python -m l2ljax train --help`."""

import importlib
import sys
from collections.abc import Sequence

from l2ljax.errors import nearest

COMMANDS = (
    *("train", "evaluate", "transfer", "compare", "search", "export", "plan", "gail", "demo"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the rest as its flags."""
    command, *flags = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(f"{__doc__}\n")
        for name in COMMANDS:
            module = importlib.import_module(f"l2ljax.commands.{name}")
            print(f"  {name:9} {(module.__doc__ or '').splitlines()[0]}")
        return 0
    if command not in COMMANDS:
        print(f"l2ljax: {nearest('command', command, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"l2ljax.commands.{command}").main(flags)


if __name__ == "__main__":
    sys.exit(main())
