"""Tables for the terminal and for Markdown: accuracies with their 95 % Wilson intervals."""

from collections.abc import Iterable, Sequence

from l2ljax.evaluate import wilson


def interval(accuracy: float, n: int) -> str:
    """`47.4 % [43.1, 51.8]`: an accuracy on n images with its interval."""
    low, high = wilson(accuracy, n)
    return f"{100 * accuracy:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Rows whose last two entries are an accuracy and its number of images, as aligned text."""
    lines = [[*map(str, row[:-2]), interval(row[-2], row[-1])] for row in rows]
    return align([list(header), *lines])


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first line underlined."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([text[0].rstrip(), "-" * len(text[0]), *(t.rstrip() for t in text[1:])])


def attack_eps(used: float, own: float, text: str) -> str:
    """The radius an attack used, as the user wrote it where it is the user's."""
    return "-" if used == 0 else text if used == own else f"{used:g}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Columns as a Markdown table, the first line its header."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])
