"""What evaluate.py evaluates: a run, its images, its attacks; and what it writes of the results."""

import hashlib
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from l2ljax.attacks import Attack, Budget, parse_all
from l2ljax.checkpoint import fingerprint
from l2ljax.commands.pictures import figures_or_none
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import Result
from l2ljax.evaluation.curves import curves
from l2ljax.evaluation.suite import PARTS
from l2ljax.evaluation.tables import attack_eps
from l2ljax.progress import Progress
from l2ljax.runs import settings as configuration
from l2ljax.runs.learned import finder
from l2ljax.runs.masking import masking_report
from l2ljax.runs.saved import Saved, images_of, open_run, restore
from l2ljax.runs.workdir import check_output
from l2ljax.settings import check_eps


class Evaluation(NamedTuple):
    """A classifier in eval mode and float32, the images it is attacked on, and how.

    eps is there as it was given too.
    """

    options: dict[str, Any]
    saved: Saved
    f: Callable
    x: np.ndarray
    y: np.ndarray
    attacks: list[Attack]
    budget: Budget
    eps: float
    text: str
    output: pathlib.Path

    def identity(self) -> dict[str, Any]:
        """Everything that decides the results, for the file of an unfinished evaluation."""
        images = np.ascontiguousarray(self.x).tobytes() + self.y.tobytes()
        names = ("attacks", "split", "norm", "seed", "learned_scaling", "learned_steps")
        return {
            "images": hashlib.sha256(images).hexdigest()[:16],
            "theta": fingerprint((self.saved.theta, self.saved.theta_stats))[:16],
            "eps": self.eps,
            "keep": bool(self.options["save_adversarials"]),
            **{name: self.options[name] for name in names},
            **self.budget._asdict(),
        }


def open_evaluation(options: dict[str, Any], budget: Budget, data_dir: str) -> Evaluation:
    """Restore the run and parse the attacks; whatever is wrong with the flags is said here."""
    attacks = _attacks(options, budget, data_dir)
    workdir, norm = pathlib.Path(options["workdir"]), options["norm"]
    config, data, game = open_run(workdir, data_dir)
    if norm != "linf" and options["eps"] is None:
        raise InputError(f"--norm={norm} needs --eps: the run trained in the l_inf ball")
    if norm != "linf" and options["masking_report"]:
        raise InputError(f"--masking_report looks at the l_inf ball, not at --norm={norm}")
    for sibling in siblings(options):
        configuration.read(sibling)  # one that is no run is refused before anything is attacked
    output = pathlib.Path(options["output"] or workdir / "evaluation.json")
    check_output("output", output)
    if options["save_adversarials"]:
        check_output("save_adversarials", pathlib.Path(options["save_adversarials"]))
    text = options["eps"] or config["eps"]
    saved = restore(workdir, options["which"], config, data, game)
    weights = saved.theta, saved.theta_stats
    x, y = images_of(data, options["split"])
    n = options["num_examples"] or len(x)
    return Evaluation(
        options,
        saved,
        game.frozen(*weights),
        x[:n],
        y[:n],
        attacks,
        budget,
        check_eps(text, norm),
        text,
        output,
    )


def siblings(options: dict[str, Any]) -> list[str]:
    """The workdirs of the runs that attack this one in the masking report."""
    return [name for name in options["siblings"].split(",") if name]


def _attacks(options: dict[str, Any], budget: Budget, data_dir: str) -> list[Attack]:
    try:
        attacks = parse_all(options["attacks"], budget=budget, learned=finder(options, data_dir))
        for attack in attacks:
            attack.check_norm(options["norm"])
    except ValueError as error:
        raise InputError(str(error)) from None
    names = [attack.name for attack in attacks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"--attacks names {sorted(twice)[0]!r} twice")
    return attacks


def trace_curves(e: Evaluation) -> dict[str, Any]:
    """Accuracy against eps and against steps, and the picture of both."""
    with Progress(PARTS, label="curves", unit=None) as bar:
        found = curves(
            jax.random.key(e.options["seed"]),
            e.f,
            e.x,
            e.y,
            eps=e.eps,
            norm=e.options["norm"],
            batch_size=e.options["batch_size"],
            progress=lambda done, total: bar.update(PARTS * done // total),
        )
    for line in found["warnings"]:
        print(f"warning: curves: {line}", file=sys.stderr)
    figures = figures_or_none()
    if figures is not None:
        config, path = e.saved.config, e.output.with_name("robustness.png")
        name, title = config["method"], f"{config['method']} on {config['dataset']}"
        print(f"drew {figures.draw_robustness(path, {name: found}, title)}")
    return found


def look_for_masking(e: Evaluation, results: Sequence[Result], data_dir: str) -> dict[str, Any]:
    """Every masking check; what the attacks have shown already is not measured again."""
    return masking_report(
        e.saved,
        e.x,
        e.y,
        eps=e.eps,
        batch_size=e.options["batch_size"],
        seed=e.options["seed"],
        response_epochs=e.options["response_epochs"],
        siblings=siblings(e.options),
        data_dir=data_dir,
        budget=e.budget,
        known={result.attack: result.robust for result in results},
        picture=e.output.with_name("surface.png"),
    )


def as_json(e: Evaluation, results: Sequence[Result]) -> dict[str, Any]:
    """What was evaluated and what came out, per-image results included."""
    options = e.options
    return {
        **{name: options[name] for name in ("workdir", "which", "split", "seed", "norm")},
        "step": e.saved.step,
        "images": len(e.x),
        "budget": e.budget._asdict(),
        "config": e.saved.config,
        "results": [_record(result, e) for result in results],
    }


def _record(result: Result, e: Evaluation) -> dict[str, Any]:
    state = result.state
    assert state is not None
    return {
        "attack": result.attack,
        "eps": attack_eps(result.eps, e.eps, e.text),
        "accuracy": result.accuracy,
        "upper_bound_of": result.bounds,
        "seconds": result.seconds,
        "after": [step._asdict() for step in result.after],
        "largest_perturbation": state.largest,
        "pixels": [state.low, state.high] if state.largest else None,
        "refused": state.refused,
        "nan_logits": state.nan_logits,
        "nan_gradient": state.nan_gradient,
        "warnings": list(result.warnings),
        "robust": "".join("1" if stood else "0" for stood in result.robust),
    }


def save_images(e: Evaluation, results: Sequence[Result]) -> pathlib.Path:
    """The images, their labels, and for each attack its images and which of them stood."""
    name = e.options["save_adversarials"]
    path = pathlib.Path(name if name.endswith(".npz") else f"{name}.npz")
    arrays: dict[str, Any] = {"x": e.x, "y": e.y}
    for result in results:
        assert result.state is not None
        arrays[f"{result.attack}/x_adv"] = result.state.x_adv
        arrays[f"{result.attack}/robust"] = result.robust
    np.savez(path, **arrays)
    return path
