"""What an evaluation found: a result per attack, as a table for people and as JSON.

    print(evaluation)                                   # the table that the command prints
    evaluation.accuracy["pgm10"]
    written = evaluation.as_json()                      # json.dumps(written) is a file
    written["results"]["pgm10"]["accuracy"]             # the one form that every file has
    results = results_from_json(written["results"])     # and back

`evaluation.json` and `summary.json` hold results in this one form: by the attack's name, a dict
with its accuracy, its radius, what stood image by image ("1" stands, "0" fell) and what makes it
doubtful.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from l2ljax.settings import fraction
from l2ljax.tables import align


class Step(NamedTuple):
    """What stood after one attack of a cascade, and how long it took."""

    attack: str
    accuracy: float
    seconds: float


class Result(NamedTuple):
    """One attack over one set: which images stood, and how long it took.

    `eps` is its radius, 0 if it moves nothing. `after` has a line for the clean images and for each
    attack of a cascade. `upper_bound_of` names the attack whose accuracy this one's is an upper
    bound of. `largest` is the norm of the largest perturbation that counted, `pixels` the range of
    its pixels; `refused`, `nan_logits` and `nan_gradient` are counts that `attacks.cascade.State`
    explains. `warnings` says in lines what makes the accuracy doubtful. `x_adv` is there if it was
    asked for. `seconds` leaves out the look at the gradient of what stands at the end.
    """

    attack: str
    eps: float
    robust: np.ndarray
    seconds: float
    after: tuple[Step, ...] = ()
    upper_bound_of: str | None = None
    largest: float = 0.0
    pixels: tuple[float, float] | None = None
    refused: int = 0
    nan_logits: int = 0
    nan_gradient: int | None = None
    warnings: tuple[str, ...] = ()
    x_adv: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """The share of images that stood."""
        return float(self.robust.mean())


class Evaluation(NamedTuple):
    """The results of every attack on one classifier and one set; prints as a table.

    `eps_text` is the radius as it is to be printed. `warnings` are all lines that make a number
    doubtful, each once.
    """

    results: tuple[Result, ...]
    eps: float
    eps_text: str
    norm: str
    warnings: tuple[str, ...] = ()

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of images that stood, by the attack's name."""
        return {result.attack: result.accuracy for result in self.results}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % Wilson interval of each accuracy."""
        return {r.attack: wilson(r.accuracy, len(r.robust)) for r in self.results}

    def as_json(self) -> dict[str, Any]:
        """Everything but the adversarial images, as numbers, texts, lists and dicts."""
        return {
            "eps": self.eps_text,
            "norm": self.norm,
            "images": len(self.results[0].robust),
            "warnings": list(self.warnings),
            "results": {r.attack: self._result_as_json(r) for r in self.results},
        }

    def _result_as_json(self, r: Result) -> dict[str, Any]:
        low, high = wilson(r.accuracy, len(r.robust))
        return {
            "eps": attack_radius(r.eps, self.eps, self.eps_text),
            "accuracy": r.accuracy,
            "interval": [low, high],
            "upper_bound_of": r.upper_bound_of,
            "seconds": r.seconds,
            "after": [step._asdict() for step in r.after],
            "largest_perturbation": r.largest,
            "pixels": r.pixels and list(r.pixels),
            "refused": r.refused,
            "nan_logits": r.nan_logits,
            "nan_gradient": r.nan_gradient,
            "warnings": list(r.warnings),
            "robust": as_bits(r.robust),
        }

    def __str__(self) -> str:
        """A line per attack, under a cascade one per attack in it, and what its images are like."""
        header, lines, notes = ["attack", "eps", "seconds", "accuracy"], [], []
        for r in self.results:
            n, sign = len(r.robust), "<=" if r.upper_bound_of else ""
            radius = attack_radius(r.eps, self.eps, self.eps_text)
            lines.append([r.attack, radius, f"{r.seconds:.1f}", interval(r.accuracy, n, sign)])
            steps = [step for step in r.after if step.attack != r.attack]
            if len(steps) > 1:
                lines += [
                    [f"  {s.attack}", "", f"{s.seconds:.1f}", interval(s.accuracy, n)]
                    for s in steps
                ]
            if r.pixels:
                low, high = r.pixels
                notes.append(
                    f"{r.attack}: largest {self.norm} perturbation {r.largest:.6f}, pixels in "
                    f"[{low:.3f}, {high:.3f}], {r.refused} claims refused"
                )
            if r.upper_bound_of:
                notes.append(
                    f"{r.attack} is an upper bound of {r.upper_bound_of}, which tries more attacks"
                )
        return "\n".join([align([header, *lines]), *notes])


def results_from_json(written: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """The results that `Evaluation.as_json` has written, by the attack's name."""
    return [
        Result(
            attack,
            0.0 if r["eps"] == "-" else fraction(r["eps"]),
            from_bits(r["robust"]),
            r["seconds"],
            tuple(Step(**step) for step in r["after"]),
            r["upper_bound_of"],
            r["largest_perturbation"],
            r["pixels"] and tuple(r["pixels"]),
            r["refused"],
            r["nan_logits"],
            r["nan_gradient"],
            tuple(r["warnings"]),
        )
        for attack, r in written.items()
    ]


def as_bits(flags: Iterable[Any]) -> str:
    """Flags as a text of "1" and "0"."""
    return "".join("1" if flag else "0" for flag in flags)


def from_bits(text: str) -> np.ndarray:
    """And back."""
    return np.frombuffer(text.encode(), np.uint8) == ord("1")


def wilson(accuracy: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson interval of a share measured on n images."""
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def interval(accuracy: float, n: int, sign: str = "") -> str:
    """`47.4 % [43.1, 51.8]`: an accuracy on n images with its interval; `<=` for a bound."""
    low, high = wilson(accuracy, n)
    return f"{sign + ' ' * bool(sign)}{100 * accuracy:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def accuracy_table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Rows whose last two entries are an accuracy and its number of images, as aligned text."""
    lines = [[*map(str, row[:-2]), interval(row[-2], row[-1])] for row in rows]
    return align([list(header), *lines])


def radius_text(eps: float) -> str:
    """0.2 as `0.2`, 8/255 as `8/255`."""
    whole = round(255 * eps)
    is_fraction = abs(eps - round(eps, 3)) > 1e-6 and abs(255 * eps - whole) < 1e-3
    return f"{whole}/255" if is_fraction else f"{eps:.3g}"


def attack_radius(used: float, own: float, text: str) -> str:
    """The radius an attack used, as the user wrote it where it is the evaluation's own."""
    return "-" if used == 0 else text if used == own else f"{used:g}"
