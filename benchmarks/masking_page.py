"""From the records of `calibrate_masking.py`: the limits, both error rates, and the page.

A check's first limit, where a net becomes suspect, is the number to start from. Its second, which
decides alone, is that number too, or, where that is more, the upper end of the 95 % Wilson
interval of the highest honest net of the choosing half. Masked nets have no say in it, so that how
many of them are missed is not fitted to them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from l2ljax.evaluation.results import wilson
from l2ljax.masking import LIMITS, VERDICTS, Limit, make_check, worst
from l2ljax.terminal import markdown

Record = dict[str, Any]

START = {
    "logit_scale": 5.0,
    "overfitted": 1.0,
    "one_step": 0.0,
    "more_steps": 5.0,
    "other_loss": 8.0,
    "large_radius": 2.0,
    "black_box": 0.2,
    "transfer": 0.0,
}
"""The checks that are calibrated and where that starts, all in per cent of images. The other checks
see facts, or need an attacker."""

HONEST = 8.0
"""The most points by which PGM-10 may flatter a net that counts as honest."""

HALVES = ("choosing", "held out", "fresh")

GROUPS = {
    "honest": "made to be honest, and PGM-10 flatters it by at most 8 points",
    "doubtful": "made to be honest, and PGM-10 flatters it by more",
    "masked": "trained on a single step without selection, or an honest net in disguise",
    "learned": "trained against a learned attacker; nobody can say beforehand",
}


def flattery(record: Record) -> float:
    """Accuracy under the attack that was believed, less that under all; for an FGSM Net FGSM."""
    believed = "fgsm" if record["kind"] == "single-step" else "pgm10"
    return record["accuracy"][believed] - record["strong"]


def group(record: Record) -> str:
    """One of GROUPS."""
    if record["kind"] == "honest":
        return "honest" if flattery(record) <= HONEST else "doubtful"
    return "learned" if record["kind"] == "learned" else "masked"


def halves(records: Sequence[Record]) -> dict[str, str]:
    """By net: of every kind, in its order, every other one is held out; and the fresh ones."""
    found = {record["net"]: "fresh" for record in records if record["fresh"]}
    for kind in dict.fromkeys(record["kind"] for record in records):
        names = [r["net"] for r in records if r["kind"] == kind and not r["fresh"]]
        found |= {name: HALVES[i % 2] for i, name in enumerate(names)}
    return found


def choose(records: Iterable[Record], images: int) -> dict[str, Limit]:
    """The limits that the honest nets among these records give."""
    honest, limits = [r for r in records if group(r) == "honest"], dict(LIMITS)
    for name, start in START.items():
        numbers = [c["number"] for r in honest for c in r["checks"] if c["name"] == name]
        highest = max([0.0, *numbers]) / 100
        decides = max(start, float(math.ceil(100 * wilson(highest, images)[1])))
        limits[name] = limits[name]._replace(suspect=start, masked=decides)
    return limits


def judged(record: Record, limits: Mapping[str, Limit]) -> dict[str, str]:
    """The verdict of every check under those limits, and under "all" the combined one."""
    checks = [
        make_check(c["name"], c["number"], c["why"], c["images"], limits[c["name"]])
        for c in record["checks"]
    ]
    return {check.name: check.verdict for check in checks} | {"all": worst(checks)}


def report(records: Sequence[Record], options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the page says, for the JSON."""
    where = halves(records)
    chosen = [r for r in records if where[r["net"]] == "choosing"]
    limits = choose(chosen, options["images"])
    nets = [
        {
            "group": group(r),
            "half": where[r["net"]],
            "flattery": flattery(r),
            "verdicts": judged(r, limits),
            "numbers": {c["name"]: c["number"] for c in r["checks"]},
            **{key: value for key, value in r.items() if key not in ("checks", "made_with")},
        }
        for r in records
    ]
    return {
        "options": dict(options),
        "limits": {name: written(limit) for name, limit in limits.items()},
        "rates": _rates(nets),
        "nets": nets,
        "commits": sorted({r["made_with"]["commit"] for r in records}),
    }


def written(limit: Limit) -> list[float | None]:
    """JSON knows no infinity."""
    return [limit.suspect, None if math.isinf(limit.masked) else limit.masked]


def _rates(nets: Sequence[Record]) -> list[dict[str, Any]]:
    rows = []
    for half in HALVES:
        for kind in ("honest", "doubtful", "masked"):
            verdicts = [
                net["verdicts"]["all"]
                for net in nets
                if (net["half"], net["group"]) == (half, kind)
            ]
            counts = {word: verdicts.count(word) for word in VERDICTS}
            rows.append({"half": half, "group": kind, "nets": len(verdicts), **counts})
    return rows


def page(found: Mapping[str, Any], made: Mapping[str, str], command: str) -> str:
    """The Markdown of a report."""
    o = found["options"]
    intro = (
        f"Measured here: `{command}`\n\n"
        f"Digits, the first {o['images']} test images, Square with {o['square_queries']} queries. "
        f"{made['device']}, {made['cores']} cores, jax {made['jax']}, commit "
        f"{', '.join(found['commits'])}.\n\n"
        "A label says how a net was made, not what a check says of it; what it is worth stands "
        "beside it as `flattery`: the accuracy under the attack that was believed (PGM-10, for a "
        "net trained on a single step FGSM), less that under the worst of all attacks here for "
        "every image, a disguised net's inner net included.\n\n"
    )
    groups = "".join(f"- {name}: {what}\n" for name, what in GROUPS.items())
    rule = (
        "\nThe first limit is the number to start from. The second, which decides alone, is that "
        "number or, if more, the upper end of the 95 % Wilson interval of the highest honest net "
        "of the choosing half, rounded up. The rule was changed once, after the held-out half had "
        "been seen (Square had raised a false alarm), so the rates to quote are those of the "
        "fresh nets, which were trained after that. What none of them shows: other_loss measures "
        "much of what `honest` is defined by, so its false alarms are among the doubtful nets "
        "alone; every number is of 8x8 images, on which Square is stronger than on large ones; "
        "checks that need a learned attacker have no masked net here to find.\n\n"
    )
    return f"{intro}{groups}{rule}{_errors(found)}\n\n{_limits(found)}\n\n{_nets(found)}\n"


def _errors(found: Mapping[str, Any]) -> str:
    rows = [["half", "group", "nets", *VERDICTS, "wrong"]]
    for rate in found["rates"]:
        wrong = rate["nets"] - rate["pass"] if rate["group"] == "honest" else rate["pass"]
        shown = ""
        if rate["group"] != "doubtful" and rate["nets"]:
            low, high = wilson(wrong / rate["nets"], rate["nets"])
            shown = f"{wrong} of {rate['nets']} [{100 * low:.0f}, {100 * high:.0f} %]"
        counts = (str(rate[word]) for word in VERDICTS)
        rows.append([rate["half"], rate["group"], str(rate["nets"]), *counts, shown])
    made = [net for net in found["nets"] if net["group"] in ("honest", "doubtful")]
    passed = sum(net["verdicts"]["all"] == "pass" for net in made)
    return (
        "Verdicts. Wrong is an honest net that does not pass, and a masked one that does, "
        "with 95 % Wilson intervals:\n\n"
        f"{markdown(rows)}\n\nOf all {len(made)} nets that were made to be honest, the doubtful "
        f"ones included, {len(made) - passed} do not pass."
    )


def _limits(found: Mapping[str, Any]) -> str:
    rows = [
        ["check", "unit", "suspect above", "masked above", "highest honest", "flags, masked nets"]
    ]
    honest = [net for net in found["nets"] if net["group"] == "honest"]
    masked = [net for net in found["nets"] if net["group"] == "masked"]
    for name, (suspect, decides) in found["limits"].items():
        numbers = [net["numbers"][name] for net in honest if name in net["numbers"]]
        flagged = [net["verdicts"].get(name, "pass") != "pass" for net in masked]
        highest = f"{max(numbers):.2g}" if numbers else ""
        limit = "never" if decides is None else f"{decides:g}"
        unit = LIMITS[name].unit
        least = f", {LIMITS[name].least} images" if LIMITS[name].least else ""
        row = [name, unit, f"{suspect:g}{least}", limit, highest]
        rows.append([*row, f"{sum(flagged)} of {len(flagged)}" if numbers else ""])
    return (
        "The limits (`l2ljax/masking/subject.py`), of all honest nets the highest number, and "
        + (
            "how many masked nets each check flags; none is made for all of them:\n\n"
            + markdown(rows)
        )
    )


def _nets(found: Mapping[str, Any]) -> str:
    rows = [["net", "group", "half", "clean", "fgsm", "pgm10", "worst", "flattery", "verdict"]]
    for net in found["nets"]:
        shares = [net["accuracy"][name] for name in ("clean", "fgsm", "pgm10")]
        shares += [net["strong"], net["flattery"]]
        verdict = net["verdicts"]["all"]
        flags = [k for k, v in net["verdicts"].items() if v != "pass" and k != "all"]
        why = f"{verdict}: {', '.join(flags)}" if flags else verdict
        rows.append(
            [net["net"], net["group"], net["half"], *(f"{share:.1f}" for share in shares), why]
        )
    return "All nets, accuracies in %:\n\n" + markdown(rows)
