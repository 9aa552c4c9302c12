"""The report of the cross-check as Markdown."""

from typing import Any

from l2ljax.ball import NORMS
from l2ljax.terminal import markdown
from official import gates

ATTACKS = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")


def page(report: dict[str, Any]) -> str:
    """Verdict, what it was measured with, and a table for each kind of gate."""
    made = report["made_with"]
    misses = report["misses"]
    verdict = "Every gate is met." if not misses else "Gates that are missed:"
    steps = "{} APGD and {} FAB steps, {} targets, {} Square queries".format(
        *report["options"]["budget"]
    )
    lines = [
        f"Measured here: `{report['command']}`",
        f"{made['device']}, {made['cores']} cores, jax {made['jax']}, torch {made['torch']}, "
        f"pyautoattack {made['pyautoattack']}, commit {made['commit']}; {steps}.",
        "\n".join([verdict, *(["", *(f"- {line}" for line in misses)] if misses else [])]),
        markdown(_nets(report["nets"])),
        "Parity of our classifier with its torch twin (weights copied) and with the bridge (torch "
        f"asks JAX): gates {gates.LOGITS:g} on logits, all predictions equal, input gradients of "
        f"an image apart by more than {gates.GRADIENTS:g} of the largest on at most "
        f"{_percent(gates.KINKED)} of images (where a ReLU's input is 0 to rounding).",
        markdown(_parity(report["parity"])),
        "Each attack alone with the same starts and draws on both sides, rightly classified "
        f"images: flags equal on at least {_percent(gates.FLAGS_EQUAL)}; every adversarial image "
        f"inside the ball and the box to {gates.ROUNDING:g}, finite, misclassified by our "
        "classifier and by the twin.",
        markdown(_without_chance(report["without_chance"])),
        "Free-running cascade `standard`: accuracy after each attack, ours, and the mean of "
        f"{report['options']['seeds']} official seeds on the twin.",
        markdown(_cascade(report["cascade"])),
        "Ours minus official in points: the mean over seeds, and the largest upper 95 % bound of a "
        f"seed (paired, Agresti and Min), which must lie below {100 * gates.ABOVE:.1f} for the "
        f"images of all rows together, at least {gates.POOLED}; and the share of images with other "
        "flags, which may be that of official against itself plus "
        f"{_percent(gates.ALLOWANCE)}.",
        markdown(_judged(report["judged"])),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _nets(nets: dict[str, Any]) -> list[list[str]]:
    rows = [["net", "model", *(f"eps {norm}" for norm in NORMS), "test images"]]
    for name, net in nets.items():
        radii = [f"{net['eps'][norm]:.4g}" if norm in net["eps"] else "" for norm in NORMS]
        rows.append([name, net["model"], *radii, str(net["images"])])
    return rows


def _parity(parity: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["net", "official on", "images", "logits apart", "predictions equal", "gradients"]]
    for row in parity:
        gradients = f"{row['gradients_median']:.0e} median, {_share(row['gradients_kinked'])} %"
        rows.append(
            [
                row["net"],
                row["via"],
                str(row["images"]),
                f"{row['logits']:.1e}",
                f"{_share(row['argmax_equal'])} %",
                f"{gradients} above",
            ]
        )
    return rows


def _without_chance(table: list[dict[str, Any]]) -> list[list[str]]:
    """One line for an attack; with twin and bridge their numbers stand side by side."""
    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in table:
        lines.setdefault((row["net"], row["norm"], row["attack"]), []).append(row)
    vias = " / ".join(dict.fromkeys(row["via"] for row in table))
    rows = [["net", "norm", "attack", "images", "ours", f"official: {vias}", "flags equal"]]
    rows[0] += ["only ours stands", "only official's", "adversarial", "unlawful", "not both"]
    for (net, norm, attack), of in lines.items():

        def beside(name: str, of: list[dict[str, Any]] = of) -> str:
            return " / ".join(str(row[name]) for row in of)

        ours = dict.fromkeys(_share(row["ours"]) for row in of)
        rows.append(
            [
                net,
                norm,
                attack,
                str(of[0]["images"]),
                " / ".join(ours),
                " / ".join(_share(row["official"]) for row in of),
                " / ".join(f"{100 * row['equal']:.2f} %" for row in of),
                *(beside(name) for name in ("only_ours", "only_official", "adversarial")),
                *(beside(name) for name in ("unlawful", "not_both")),
            ]
        )
    return rows


def _cascade(table: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["net", "norm", "images", *ATTACKS, "adversarial", "unlawful", "not both"]]
    for row in table:
        after = []
        for attack in ATTACKS:
            # An official run that has nothing left skips the remaining attacks.
            theirs = [run.get(attack, 0.0) for run in row["official"]]
            mean = sum(theirs) / len(theirs)
            after.append(f"{_share(row['ours'][attack])} / {_share(mean)}")
        counts = [str(row[name]) for name in ("adversarial", "unlawful", "not_both")]
        rows.append([row["net"], row["norm"], str(row["images"]), *after, *counts])
    return rows


def _judged(table: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["net", "norm", "images", "ours", "official by seed", "difference", "bound"]]
    rows[0] += ["other flags", "official against itself"]
    for row in table:
        rows.append(
            [
                row["net"],
                row["norm"],
                str(row["images"]),
                _share(row["ours"]),
                ", ".join(_share(run) for run in row["official"]),
                f"{100 * row['gap']:+.2f}",
                f"{100 * row['bound']:.2f}",
                f"{100 * row['from_them']:.2f} %",
                f"{100 * row['among_themselves']:.2f} %",
            ]
        )
    return rows
