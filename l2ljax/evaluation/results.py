"""What an evaluation found: a result per attack, as a table for people and as JSON, and curves.

    print(evaluation)                                   # the table that the command prints
    evaluation.accuracy["pgm10"]
    written = evaluation.as_json()                      # json.dumps(written) is a file
    written["results"]["pgm10"]["accuracy"]             # the one form that every file has
    results = results_from_json(written["results"])     # and back

`evaluation.json` and `summary.json` hold results in this one form: by the attack's name, a dict
with its accuracy, its radius, what stood image by image ("1" stands, "0" fell) and what makes it
doubtful.

Curves show accuracy against eps and against the number of PGM steps (the paper's Figures 3 and 4):

    found = trace_curves(jax.random.key(0), f, x, y, eps=8 / 255, batch_size=250)
    figures.draw_robustness(path, {"grad_l2l": found}, "grad_l2l on cifar10")

Against eps: FGSM and PGM-100 as evaluate.py runs them, from 0 to twice the radius. Against steps:
PGM from zero with ONE step size for every T, that of pgm10 (eps/3, the paper's 0.01 at 0.03): T
alone changes, the image after T steps lies on the way to the one after more, and the point at 10 is
evaluate.py's pgm10. Above T = 10 evaluate.py's pgmT shrinks its step (2.5 eps/T), which would mix
two causes here; so its pgm100 is not the last point of this curve but the point at `eps` of the
other, and the picture shows it beside this one too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from l2ljax import gate
from l2ljax.attacks import checks, parse, pgd
from l2ljax.attacks.cascade import Run, cascade
from l2ljax.attacks.entrance import check_dataset
from l2ljax.settings import fraction
from l2ljax.terminal import align
from l2ljax.types import Array


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


RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""The radii, over that of the evaluation; in l_inf a radius of 1 holds every image already."""

STEPS = (1, 2, 5, 10, 20, 50, 100)

ATTACKS = ("fgsm", "pgm100")
"""What is shown against eps."""

FIXED_STEP = 1 / 3
"""The one step size against T, over eps."""

OnPoint = Callable[[int, int], None]
"""(points done, points in all), called after every point."""


def trace_curves(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    batch_size: int,
    norm: str = "linf",
    ratios: Sequence[float] = RATIOS,
    steps: Sequence[int] = STEPS,
    progress: OnPoint | None = None,
) -> dict[str, Any]:
    """Points with accuracy and per-image results, JSON-able: by attack against eps, against T.

    `warnings` has the lines that make a point doubtful, each once.
    """
    gate.check_eps(eps, norm)
    x, y, classes = check_dataset(f, x, y, batch_size=batch_size)
    radii = sorted({r * eps if norm == "l2" else min(r * eps, 1.0) for r in ratios})
    total = len(radii) * len(ATTACKS) + len(steps)
    batch_size, done, warnings = min(batch_size, len(x)), 0, {}

    def point(runs: Sequence[Run], radius: float) -> dict[str, Any]:
        nonlocal done
        played = runs if radius > 0 else []
        how = {"eps": radius or eps, "norm": norm, "batch_size": batch_size}
        state = cascade(rng, f, x, y, played, **how)
        robust = state.robust
        warnings.update(dict.fromkeys(checks.warnings_after(state)))
        done += 1
        if progress is not None:
            progress(done, total)
        return {"accuracy": float(robust.mean()), "robust": as_bits(robust)}

    against_eps = {}
    for name in ATTACKS:
        runs = parse(name).runs(classes)
        against_eps[name] = [{"eps": radius, **point(runs, radius)} for radius in radii]
    against_steps = [
        {"steps": t, **point([Run(f"pgm{t}", partial(_pgm, steps=t))], eps)} for t in steps
    ]
    return {
        "eps": eps,
        "norm": norm,
        "images": len(x),
        "against_eps": against_eps,
        "step_size": FIXED_STEP * eps,
        "against_steps": against_steps,
        "warnings": list(warnings),
    }


def _pgm(rng, f, x, y, *, eps, norm, steps):
    how = {"step_size": FIXED_STEP * eps, "start": "zero", "loss": "ce", "norm": norm}
    return pgd(rng, f, x, y, eps=eps, steps=steps, **how)
