"""Clean and robust accuracy of any classifier x -> logits over a set, the worst case per image.

    evaluation = evaluate(f, x, y, eps=8 / 255, attacks="clean,pgm10,autoattack")
    print(evaluation)                        # a table with 95 % Wilson intervals
    stood = robust(key, f, x, y, parse("pgm10"), eps=8 / 255, batch_size=250)       # per image

`attacks.cascade` does the work: batches of one fixed shape, survivors packed anew after every run,
search and final check in true float32. Here are the names, the clock, the devices, and the lines
that say where a number is not what it seems.
"""

import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.attacks import checks
from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.attacks.cascade import CLEAN, Run, State, cascade
from l2ljax.attacks.entrance import check_dataset, classifier, compiled_logits
from l2ljax.attacks.specs import Attack, Attacks, AutoAttackParts, check_attack, parse_all
from l2ljax.errors import word
from l2ljax.evaluation.results import Evaluation, Result, Step, radius_text
from l2ljax.evaluation.resume import StateFile, Watcher, digest, weights_digest
from l2ljax.parallel import KINDS, ONE_DEVICE, Layout, evaluation_layout
from l2ljax.types import Apply, Array, Tree


def freeze(apply: Apply) -> Callable[[Tree, Tree], Partial]:
    """(theta, stats) -> the classifier x -> logits in eval mode; compiled once for all weights."""

    def logits(theta: Tree, stats: Tree, x: Array) -> Array:
        return apply(theta, stats, x, "eval")[0]

    return lambda theta, stats: Partial(logits, theta, stats)


def robust(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    attack: Attack,
    *,
    eps: float,
    batch_size: int,
    norm: str = "linf",
    layout: Layout = ONE_DEVICE,
) -> np.ndarray:
    """For every image, whether it is classified rightly before and after every run of the attack.

    A restart has the same draws in every run, so that a union is never above any of its parts. What
    `evaluate` puts into `Result.warnings` is a RuntimeWarning here.
    """
    check_attack(attack)
    attack.check_norm(norm)
    x, y, classes = check_dataset(f, x, y, batch_size=batch_size)
    f, sizes = layout.put_for_evaluation(classifier(f)), _sizes(batch_size, layout)
    state = cascade(rng, f, x, y, attack.runs(classes), eps=eps, norm=norm, **sizes)
    sample = checks.first_batch(x, y, sizes["batch_size"])
    checks.warn([*checks.classifier_warnings(f, sample, norm), *checks.warnings_after(state)])
    return state.robust


def _sizes(batch_size: int, layout: Layout) -> dict[str, Any]:
    """Batches that divide over the devices."""
    return {"batch_size": layout.round_up(batch_size), "to_devices": layout.split_for_evaluation}


def evaluate(
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    attacks: Attacks = "clean,pgm10,autoattack",
    norm: str = "linf",
    batch_size: int = 250,
    seed: int = 0,
    budget: Budget = OFFICIAL,
    keep_images: bool = False,
    parallel: str | None = None,
    progress: bool = False,
    state_file: str | pathlib.Path | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Every attack over the whole set, each from the start: accuracies, intervals, warnings.

    f maps images in [0, 1] to logits; x is uint8 or float and may be larger than the device. An
    attack is a name (`attacks.specs` lists them), an `Attack`, or a function of your own,
    attack(rng, f, x, y, *, eps, norm) -> x_adv; `budget` is how long the parts of AutoAttack try.
    No result depends on `batch_size`, unless an attack of your own makes it so. With `keep_images`
    the results have x_adv. `parallel` is "none" for one device; otherwise every batch is cut over
    all of them. `progress` draws a bar and prints warnings as they arise.

    With `state_file` an interrupted evaluation goes on where it was, when it is called again as
    before; the file is left when all is done, and it is yours to delete. A file of other images,
    settings or weights is refused; the weights are known where f is `Partial(apply, weights)`, of
    another f the answers to the first batch. `identity` has what else decides the results.
    """
    listed = parse_all(attacks, budget=budget)
    gate.check_eps(eps, norm)
    gate.check_count("batch_size", batch_size)
    gate.check_images(x)
    word("parallel", parallel, [None, *KINDS])
    for attack in listed:
        attack.check_norm(norm)
    layout = evaluation_layout(parallel)
    sizes = _sizes(min(batch_size, len(x)), layout)
    x, y, classes = check_dataset(f, x, y, batch_size=sizes["batch_size"])
    sample = checks.first_batch(x, y, sizes["batch_size"])
    file, begun = None, {}
    if state_file is not None:
        settings = {"eps": float(eps), "norm": norm, "seed": seed, "keep_images": keep_images}
        settings |= {"attacks": [attack.name for attack in listed], **budget._asdict()}
        settings |= {"images": digest(x, y), "classifier": _identity_of(f, sample.x)}
        file = StateFile(state_file, settings | dict(identity or {}))
        begun = file.load()
    say = _say if progress else lambda line: None
    if begun:
        say(f"goes on from {state_file}")
    warnings = dict.fromkeys(_warnings_before(f, sample, listed, norm))
    for line in warnings:
        say(f"warning: {line}")
    f = layout.put_for_evaluation(classifier(f))
    of_classifier = checks.classifier_warnings(f, sample, norm)
    results = []
    with Watcher(file, begun, progress=progress) as watcher:
        for attack in listed:
            runs = attack.runs(classes)
            state, seconds = begun.get(attack.name, (None, {}))
            clock = _Clock(seconds)

            def on_progress(state: State, attack=attack, runs=runs, clock=clock) -> None:
                clock.lap(state.run)
                begun[attack.name] = (state, clock.seconds)
                watcher.after_batch(attack, runs, state)

            how = {"eps": eps, "norm": norm, "keep": keep_images, "state": state, **sizes}
            key = jax.random.key(seed)
            state = cascade(key, f, x, y, runs, on_progress=on_progress, **how)
            begun[attack.name] = (state, clock.seconds)
            doubts = [*of_classifier, *checks.warnings_after(state)]
            doubts += filter(None, [checks.at_chance(state, y, classes)])
            results.append(_result(attack, eps, state, runs, clock.seconds, doubts))
    later = dict.fromkeys(line for r in results for line in _warnings_of(r, warnings))
    for line in later:
        say(f"warning: {line}")
    return Evaluation(tuple(results), float(eps), radius_text(eps), norm, tuple(warnings | later))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _identity_of(f: Callable[[Array], Array], x: Array) -> str:
    """The weights of a Partial; of another classifier, what it answers on the first batch."""
    if weights := weights_digest(f):
        return weights
    logits = np.asarray(compiled_logits(classifier(f), x))
    return f"{digest(logits.argmax(-1))}, logits of mean size {np.abs(logits).mean():.4g}"


def _warnings_before(
    f: Callable[[Array], Array], sample: checks.Sample, attacks: Sequence[Attack], norm: str
) -> list[str]:
    """What the official suite would say of the classifier on the first batch."""
    parts = [part for attack in attacks for _, part in attack.parts]
    official = [part for part in parts if isinstance(part, AutoAttackParts)]
    names = {name for part in official for name in part.names}
    if not names:
        return []
    most = max(part.budget.targets for part in official)
    return list(checks.warnings_before(f, sample, names, most, norm))


def _warnings_of(result: Result, known: Mapping[str, Any]) -> list[str]:
    """What makes an accuracy doubtful, and what the official suite would say of the outcome."""
    helped = checks.square_helps({step.attack: step.accuracy for step in result.after})
    lines = [f"{result.attack}: {line}" for line in result.warnings if line not in known]
    return [*filter(None, [helped]), *lines]


class _Clock:
    """Seconds of wall time by run."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = dict(seconds)
        self._last = time.perf_counter()

    def lap(self, run: int) -> None:
        now = time.perf_counter()
        self.seconds[run] = self.seconds.get(run, 0.0) + now - self._last
        self._last = now


def _result(
    attack: Attack,
    eps: float,
    state: State,
    runs: Sequence[Run],
    seconds: Mapping[int, float],
    doubts: Sequence[str],
) -> Result:
    lines = {"clean": Step("clean", state.after(CLEAN), seconds.get(CLEAN, 0.0))}
    for number, run in enumerate(runs):
        spent = seconds.get(number, 0.0) + (lines[run.name].seconds if run.name in lines else 0.0)
        lines[run.name] = Step(run.name, state.after(number), spent)
    return Result(
        attack.name,
        attack.radius(eps),
        state.robust,
        sum(seconds.values()),
        tuple(lines.values()),
        attack.bounds,
        state.largest,
        (state.low, state.high) if state.largest else None,
        state.refused,
        state.nan_logits,
        state.nan_gradient,
        tuple(doubts),
        state.x_adv if len(state.x_adv) else None,
    )
