# pyright: reportMissingImports=false
"""The rows of the cross-check: parity of the two sides, attacks without chance, cascades with it.

A net is measured once per part and kept (`official.kept`), so a row costs nothing the second time.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from l2ljax.attacks.autoattack import Budget, autoattack
from official import attacks, gates, ours
from official.bridge import nchw, nhwc
from official.kept import Kept, sources, version

PARITY_IMAGES = 256
"""On so many images logits, predictions and gradients of the two sides are compared."""


DRAWN = ("row", "col", "sign", "row2", "col2", "turned")
"""The fields of `attacks.square.Draws`."""


class Net(NamedTuple):
    """A classifier with its images and radii; `models` holds its torch counterparts by name."""

    name: str
    about: dict[str, Any]
    f: Any
    models: dict[str, Any]
    x: np.ndarray
    y: np.ndarray
    eps: dict[str, float]
    key: str


def parity(net: Net) -> list[dict[str, Any]]:
    """Logits, predictions and input gradients of the label's logit, for twin and bridge."""
    x, y = net.x[:PARITY_IMAGES], net.y[:PARITY_IMAGES]
    logits = np.asarray(jax.jit(net.f)(x))

    def picked(x):
        return jnp.take_along_axis(net.f(x), y[:, None], -1).sum()

    u = np.asarray(jax.jit(jax.grad(picked))(x))
    rows = []
    for via, model in net.models.items():
        asked = nchw(x).requires_grad_()
        out = model(asked)
        label = out[torch.arange(len(y)), torch.from_numpy(np.asarray(y, np.int64))]
        (grad,) = torch.autograd.grad(label.sum(), asked)
        theirs = out.detach().numpy()
        apart = gates.gradients_apart(nhwc(grad), u)
        rows.append(
            {
                "net": net.name,
                "via": via,
                "images": len(x),
                "logits": float(np.abs(theirs - logits).max()),
                "argmax_equal": float((theirs.argmax(-1) == logits.argmax(-1)).mean()),
                "gradients_median": float(np.median(apart)),
                "gradients_kinked": float((apart > gates.GRADIENTS).mean()),
            }
        )
    return rows


def without_chance(
    net: Net, norm: str, via: str, options: dict[str, Any], kept: Kept
) -> Iterator[dict[str, Any]]:
    """Every attack on both sides with the same starts and draws: a row for each."""
    eps, model = net.eps[norm], net.models[via]
    rightly = np.flatnonzero(ours.right(net.f, net.x, net.y))[: options["chance_images"]]
    x, y = net.x[rightly], net.y[rightly]
    budget = attacks.Budget(*options["budget"])
    settings: dict[str, Any] = {"eps": eps, "norm": norm}
    apgd = {**settings, "steps": budget.apgd_steps}
    fab = {**settings, "steps": budget.fab_steps, "targets": budget.targets}
    queries = {**settings, "queries": budget.square_queries}
    start = ours.starts(0, 1, x, eps, norm)[0]
    starts = ours.starts(1, budget.targets, x, eps, norm)

    def record():
        x_adv, start, draws = attacks.square(model, x, y, seed=0, **queries)
        return {"x_adv": x_adv, "start": start, **draws}

    def replay():
        draws = {name: v for name, v in recorded().items() if name in DRAWN}
        return ours.square(net.f, x, y, recorded()["start"], draws, **queries)

    def recorded():
        return kept.part(f"{net.name} {norm} square official {via}", theirs, record)

    theirs = net.key, eps, *options["budget"], len(x), version()
    mine = *theirs, sources()
    plays = {
        "apgd-ce": (
            lambda: attacks.apgd_ce(model, x, y, start, **apgd),
            lambda: ours.apgd_ce(net.f, x, y, start, **apgd),
        ),
        "apgd-t": (
            lambda: attacks.apgd_t(model, x, y, starts, **apgd),
            lambda: ours.apgd_t(net.f, x, y, starts, **apgd),
        ),
        "fab-t": (
            lambda: attacks.fab_t(model, x, y, **fab),
            lambda: ours.fab_t(net.f, x, y, **fab),
        ),
        "square": (None, replay),
    }
    for name, (official, own) in plays.items():
        label = f"{net.name} {norm} {name}"
        if official is None:
            a = recorded()
        else:
            a = kept.part(f"{label} official {via}", theirs, lambda p=official: {"x_adv": p()})
        # Square's draws are the official run's, so ours is another one for twin and bridge.
        tail = f" {via}" if name == "square" else ""
        b = kept.part(f"{label} ours{tail}", mine, lambda p=own: {"x_adv": p()})
        stands, stood = ours.right(net.f, b["x_adv"], y), ours.right(net.f, a["x_adv"], y)
        yield {
            "net": net.name,
            "norm": norm,
            "eps": eps,
            "attack": name,
            "via": via,
            "images": len(x),
            "ours": float(stands.mean()),
            "official": float(stood.mean()),
            "equal": gates.equal(stands, stood),
            "only_ours": int((stands & ~stood).sum()),
            "only_official": int((stood & ~stands).sum()),
            **_claims(net, x, y, b["x_adv"], ~stands, eps, norm),
        }


def _claims(net, x, y, x_adv, fell, eps, norm) -> dict[str, int]:
    """Our adversarial images: how many, how many break the rules, how many do not fool both."""
    unlawful = gates.unlawful(x, x_adv, eps, norm)
    x_adv, y = x_adv[fell], y[fell]
    if not len(y):
        return {"adversarial": 0, "unlawful": unlawful, "not_both": 0}
    with torch.no_grad():
        twice = net.models["twin"](nchw(x_adv)).argmax(1).numpy() != y
    return {
        "adversarial": len(y),
        "unlawful": unlawful,
        "not_both": int((~(twice & ~ours.right(net.f, x_adv, y))).sum()),
    }


def free_running(net: Net, norm: str, options: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """The cascade: ours once, the official one with every seed, on the twin."""
    eps, settings = net.eps[norm], {"norm": norm, "batch_size": options["batch_size"]}
    theirs = net.key, eps, *options["budget"], options["batch_size"], version()

    def own():
        result = autoattack(
            jax.random.key(0),
            net.f,
            net.x,
            net.y,
            eps=eps,
            budget=Budget(*options["budget"]),
            **settings,
        )
        after = json.dumps(result.accuracy)
        return {"x_adv": result.x_adv, "robust": result.robust, "accuracy": after}

    def official(seed):
        result = attacks.standard(
            net.models["twin"],
            net.x,
            net.y,
            eps=eps,
            seed=seed,
            budget=attacks.Budget(*options["budget"]),
            **settings,
        )
        after = json.dumps(result.accuracy)
        return {"x_adv": result.x_adv, "robust": result.robust, "accuracy": after}

    label = f"{net.name} {norm} cascade"
    runs = [
        kept.part(f"{label} official seed {seed}", theirs, lambda seed=seed: official(seed))
        for seed in range(options["seeds"])
    ]
    mine = kept.part(f"{label} ours", (*theirs, sources()), own)
    fell = ~mine["robust"] & ours.right(net.f, net.x, net.y)
    return {
        "net": net.name,
        "norm": norm,
        "eps": eps,
        "images": len(net.x),
        "ours": json.loads(str(mine["accuracy"])),
        "official": [json.loads(str(run["accuracy"])) for run in runs],
        "flags": {
            "ours": gates.write_bits(mine["robust"]),
            "official": [gates.write_bits(run["robust"]) for run in runs],
        },
        **_claims(net, net.x, net.y, mine["x_adv"], fell, eps, norm),
    }
