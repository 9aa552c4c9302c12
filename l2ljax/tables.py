"""Tables of text, for a terminal and for a Markdown page; the first line of each is its header."""

from collections.abc import Sequence

Lines = Sequence[Sequence[str]]
"""One sequence of cells for each line, all of the same length."""


def align(lines: Lines) -> str:
    """The columns side by side as plain text, the header underlined."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([text[0].rstrip(), "-" * len(text[0]), *(t.rstrip() for t in text[1:])])


def markdown(lines: Lines) -> str:
    """The same as a Markdown table."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])
