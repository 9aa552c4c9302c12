"""Rows of text as a table: aligned for the terminal, or in Markdown."""

from collections.abc import Sequence


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first line underlined."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([text[0].rstrip(), "-" * len(text[0]), *(t.rstrip() for t in text[1:])])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Columns as a Markdown table, the first line its header."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])
