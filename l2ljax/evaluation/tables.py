"""Accuracies for people: tables for the terminal and for Markdown, and beside a progress bar."""

from collections.abc import Iterable, Mapping, Sequence

from l2ljax.evaluation.accuracy import Result, wilson
from l2ljax.tables import align


def interval(accuracy: float, n: int, sign: str = "") -> str:
    """`47.4 % [43.1, 51.8]`: an accuracy on n images with its interval; `<=` for a bound."""
    low, high = wilson(accuracy, n)
    return f"{sign + ' ' * bool(sign)}{100 * accuracy:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Rows whose last two entries are an accuracy and its number of images, as aligned text."""
    lines = [[*map(str, row[:-2]), interval(row[-2], row[-1])] for row in rows]
    return align([list(header), *lines])


def attack_eps(used: float, own: float, text: str) -> str:
    """The radius an attack used, as the user wrote it where it is the user's."""
    return "-" if used == 0 else text if used == own else f"{used:g}"


def show_results(results: Sequence[Result], eps: float, text: str, norm: str) -> str:
    """A line per attack, under a cascade one per attack in it, and what its images are like."""
    header, lines, notes = ["attack", "eps", "seconds", "accuracy"], [], []
    for r in results:
        n, sign = len(r.robust), "<=" if r.bounds else ""
        shown = interval(r.accuracy, n, sign)
        lines.append([r.attack, attack_eps(r.eps, eps, text), f"{r.seconds:.1f}", shown])
        steps = [step for step in r.after if step.attack != r.attack]
        if len(steps) > 1:
            lines += [
                [f"  {s.attack}", "", f"{s.seconds:.1f}", interval(s.accuracy, n)] for s in steps
            ]
        if r.state is not None and r.state.largest:
            notes.append(
                f"{r.attack}: largest {norm} perturbation {r.state.largest:.6f}, pixels in "
                f"[{r.state.low:.3f}, {r.state.high:.3f}], {r.state.refused} claims refused"
            )
        if r.bounds:
            notes.append(f"{r.attack} is an upper bound of {r.bounds}, which tries more attacks")
    return "\n".join([align([header, *lines]), *notes])


def brief(values: Mapping[str, float]) -> dict[str, str]:
    """What the progress bar shows of a step or an epoch."""
    shown = {"loss": f"{values['theta/loss']:.3f}"}
    for word, name in (
        ("clean", "theta/clean_accuracy"),
        ("robust", "theta/robust_accuracy"),
        ("val clean", "val/clean"),
        ("val robust", "val/robust"),
    ):
        if name in values:
            shown[word] = f"{100 * values[name]:.1f} %"
    return shown
