"""Black-box robustness: images crafted on one classifier, classified by others.

    found = transfer({"pgm": f, "l2l": g}, {"plain": h}, x, y, eps=8 / 255, attacks="fgsm,pgm10")
    print(found)                      # a table per attack: rows classify, columns were attacked

Each surrogate is attacked once per attack and every target gets the same images. Every image is
attacked, also those that the surrogate itself gets wrong. As everywhere an image counts if the
target is right before and after; the paper counts the attacked images alone, and the cells hold
that too. Of an attack with several runs the target must withstand every one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax import gate
from l2ljax.attacks.cascade import Run, batches, check_claims, nan_gradients, true_float32
from l2ljax.attacks.entrance import check_dataset, classifier
from l2ljax.attacks.specs import Attack, Attacks, parse, parse_all
from l2ljax.ball import per_image, scale
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import robust
from l2ljax.evaluation.results import as_bits, attack_radius, interval, radius_text
from l2ljax.evaluation.resume import weights_digest
from l2ljax.terminal import align
from l2ljax.types import Array

Classifiers = Mapping[str, Callable[[Array], Array]]

SUSPECT = 0.002, 3
"""Share and number of images by which transfer may beat the white-box attack."""

OWN = "the surrogate itself"
"""The row of each surrogate's own accuracy, white-box."""


class Transfer(NamedTuple):
    """Who withstands what was crafted on whom; prints as a table per attack.

    `classifiers` has by name the clean accuracy, which images are right, and of a surrogate at how
    many its gradient is NaN or infinite. A cell of `cells` says attack, surrogate, target, whether
    both have the same weights (`white_box`), and what stood. `eps_text` is the radius as it is
    printed.
    """

    targets: tuple[str, ...]
    surrogates: tuple[str, ...]
    images: int
    eps: float
    eps_text: str
    classifiers: dict[str, dict[str, Any]]
    cells: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Everything as numbers, texts, lists and dicts."""
        return {
            "images": self.images,
            "eps": self.eps_text,
            "targets": list(self.targets),
            "surrogates": list(self.surrogates),
            "nets": self.classifiers,
            "results": [cell | {"eps": self._radius(cell["eps"])} for cell in self.cells],
        }

    def _radius(self, used: float) -> str:
        return attack_radius(used, self.eps, self.eps_text)

    def tables(self, lay_out: Callable[[Sequence[Sequence[str]]], str] = align) -> list[str]:
        """A table per attack, by `terminal.align` or `terminal.markdown`; * is white-box."""
        cells = {(c["attack"], c["target"], c["surrogate"]): c for c in self.cells}

        def share(attack: str, target: str, surrogate: str) -> str:
            cell = cells[attack, target, surrogate]
            return interval(cell["accuracy"], self.images) + " *" * cell["white_box"]

        found = []
        for attack, eps in dict.fromkeys((c["attack"], c["eps"]) for c in self.cells):
            lines = [["target", "clean", *self.surrogates]]
            for target in self.targets:
                clean = interval(self.classifiers[target]["accuracy"], self.images)
                lines.append([target, clean, *(share(attack, target, s) for s in self.surrogates)])
            lines.append([OWN, "", *(share(attack, s, s) for s in self.surrogates)])
            found.append(f"{attack}, eps = {self._radius(eps)}:\n\n{lay_out(lines)}")
        return found

    def suspects(self) -> list[str]:
        """A line for every target that another's images harm more than its own."""
        return suspects(self.cells, self.images)

    def __str__(self) -> str:
        return "\n\n".join([*self.tables(), *self.suspects()])


def suspects(cells: Sequence[Mapping[str, Any]], images: int) -> list[str]:
    """A line for every target that images crafted on another harm more than its own."""
    own = {(c["attack"], c["target"]): c for c in cells if c["target"] == c["surrogate"]}
    lines = []
    for cell in cells:
        attack, target = cell["attack"], cell["target"]
        gap = own.get((attack, target), cell)["accuracy"] - cell["accuracy"]
        if gap > SUSPECT[0] and round(gap * images) >= SUSPECT[1] and not cell["white_box"]:
            lines.append(
                f"{target}: {attack} crafted on {cell['surrogate']} harms it more than its own, by "
                f"{100 * gap:.1f} points; its gradients may be masked."
            )
    return lines


def crafting(attacks: Attacks, **how: Any) -> list[Attack]:
    """The attacks that move an image; `how` is for `parse_all`. Clean accuracy is always shown."""
    listed = parse_all(attacks, **how)
    found = [attack for attack in listed if attack.parts]
    if not found:
        named = ",".join(attack.name for attack in listed)
        raise InputError(f"attacks={named} crafts nothing; try fgsm,pgm10")
    return found


def transfer(
    targets: Classifiers,
    surrogates: Classifiers,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    attacks: Attacks = "fgsm,pgm10",
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = False,
) -> Transfer:
    """Every attack on every surrogate, in the l_inf ball, scored on every target.

    Classifiers x -> logits come by name; a name that is in both must be of one classifier.
    `progress` says on the standard error what is being made.
    """
    listed, everyone = crafting(attacks), {**targets, **surrogates}
    for name in set(targets) & set(surrogates):
        if targets[name] is not surrogates[name]:
            raise InputError(f"{name!r} names one classifier among the targets, another to attack")
    gate.check_eps(eps)
    gate.check_count("batch_size", batch_size)
    gate.check_images(x)
    say, rng = _say if progress else lambda line: None, jax.random.key(seed)
    n, eps, size = len(x), float(eps), min(batch_size, len(x))
    how = {"eps": eps, "batch_size": size}
    classes = {name: check_dataset(f, x, y, batch_size=size)[2] for name, f in everyone.items()}
    clean = {name: robust(rng, f, x, y, parse("clean"), **how) for name, f in everyone.items()}
    weights = {name: weights_digest(f) or f"no weights: {id(f)}" for name, f in everyone.items()}
    found = {
        name: {"accuracy": float(right.mean()), "right": as_bits(right), "nan_gradient": None}
        for name, right in clean.items()
    }
    for name, f in surrogates.items():
        count = found[name]["nan_gradient"] = broken_gradients(f, x, y, batch_size=size)
        if count:
            say(
                f"warning: {name}: the gradient is NaN or infinite at {count} of {n} images: what "
                "is crafted on it there by gradient has not moved"
            )
    cells = []
    for attack in listed:
        for surrogate, f in surrogates.items():
            say(f"{attack.name}: crafting on {surrogate}")
            scored = {name: everyone[name] for name in dict.fromkeys([*targets, surrogate])}
            runs = attack.runs(classes[surrogate])
            for target, right in withstood(rng, f, scored, x, y, runs, **how).items():
                stood = right & clean[target]
                cells.append(
                    {
                        "attack": attack.name,
                        "eps": attack.radius(eps),
                        "surrogate": surrogate,
                        "target": target,
                        "white_box": weights[target] == weights[surrogate],
                        "accuracy": float(stood.mean()),
                        "accuracy_attacked": float(right.mean()),
                        "robust": as_bits(stood),
                        "right_attacked": as_bits(right),
                    }
                )
    return Transfer(tuple(targets), tuple(surrogates), n, eps, radius_text(eps), found, cells)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def craft(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    run: Run,
    *,
    first: int,
    eps: float,
) -> Array:
    """That run's images against f; what one draws depends on its row alone, x[0] being `first`."""
    keys = per_image(jax.random.fold_in(rng, run.draw), first + jnp.arange(len(x)))
    with true_float32():
        return run.play(keys, classifier(f), x, y, eps=eps, norm="linf")


def broken_gradients(
    f: Callable[[Array], Array], x: np.ndarray, y: np.ndarray, *, batch_size: int
) -> int:
    """At how many images the gradient of cross-entropy is NaN or infinite."""
    count = 0
    for block, n in batches(np.arange(len(x)), batch_size):
        count += nan_gradients(f, scale(jnp.asarray(x[block])), jnp.asarray(y[block]), n)
    return count


def withstood(
    rng: Array,
    surrogate: Callable[[Array], Array],
    targets: Classifiers,
    x: np.ndarray,
    y: np.ndarray,
    runs: Sequence[Run],
    *,
    eps: float,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """For each target, which images it classifies rightly after every run on the surrogate."""
    for f in (surrogate, *targets.values()):
        check_dataset(f, x, y, batch_size=batch_size)
    gate.check_eps(eps)
    stood = {name: np.ones(len(x), bool) for name in targets}
    for block, n in batches(np.arange(len(x)), batch_size):
        images, labels = scale(jnp.asarray(x[block])), jnp.asarray(y[block])
        for run in runs:
            first, radius = int(block[0]), eps if run.eps is None else run.eps
            with gate.checked():
                attacked = craft(rng, surrogate, images, labels, run, first=first, eps=radius)
            for name, f in targets.items():
                claims = check_claims(f, images, attacked, labels, eps=radius, norm="linf")
                stood[name][block[:n]] &= ~claims.fallen[:n]
    return stood
