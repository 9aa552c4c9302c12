"""How often the masking checks are wrong: honest and masked nets on digits, half of them held out.

    python benchmarks/calibrate_masking.py

A record per net in WORKDIR/nets.jsonl, from which the same command goes on where it stopped, and
OUT.md and OUT.json at the end. Limits are chosen on one half of the nets and judged on the other.
Beside a net's label stands what it is worth: by how much PGM-10 flatters the net, against the
worst of every attack here and, for a disguised net, of the same attacks on the net inside.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax

from l2ljax.attacks import Budget
from l2ljax.commands.flags import run_main
from l2ljax.data import Dataset, load
from l2ljax.errors import InputError
from l2ljax.machine import describe, prepare
from l2ljax.masking import LIMITS, Subject, examine, make_subject
from l2ljax.masking.checks import WHITE_BOX
from l2ljax.runs.config import write_json
from l2ljax.runs.summary import attackers
from l2ljax.settings import Setting, defaults
from masking_nets import Net, disguised, make, nets
from masking_page import page, report, written

FLAGS = [
    Setting("workdir", str, "folder of the nets and their records", "runs/masking"),
    Setting("out", str, "path of the report without its ending", "results/masking"),
    Setting("images", int, "test images that every check is made on", 250),
    Setting("square_queries", int, "queries of Square", 2000),
    Setting("response_epochs", int, "passes of a learned net's retrained attacker", 20),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

SHOWN = ("clean", "fgsm", "pgm10", "pgm100", "pgm1000", "pgm100_margin", "pgm100_dlr")
STRONG = (*SHOWN, "apgd-ce", "apgd-t", "pgm100x5")
"""Together with Square: the truth about a net, as far as it is known here."""


def examine_net(net: Net, data: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    """Train it, make every check, and measure what its label is worth."""
    began, folder = time.perf_counter(), pathlib.Path(options["workdir"]) / "nets"
    made, by_name = make(net, data, folder), {other.name: other for other in nets()}
    trained = time.perf_counter() - began
    sibling = make(by_name[net.sibling], data, folder).classifier
    s = _subject(disguised(made, net.disguise), made.game.eps, data, options)
    own = {}
    if net.kind == "learned":
        own = attackers(made, s, epochs=options["response_epochs"])
    checks = examine(s, siblings=[sibling], **own)
    strong = s.standing(STRONG) & s.stood("square", WHITE_BOX)
    if net.disguise:
        inner = _subject(made.classifier, made.game.eps, data, options)
        strong = strong & inner.standing(STRONG)
    return {
        "net": net.name,
        "kind": net.kind,
        "fresh": net.fresh,
        "disguise": net.disguise,
        "flags": net.flags,
        "seed": net.seed,
        "sibling": net.sibling,
        "accuracy": {name: s.accuracy(name) for name in SHOWN},
        "strong": 100 * float(strong.mean()),
        "checks": [check._asdict() for check in checks],
        "seconds": {"training": trained, "checks": time.perf_counter() - began - trained},
        "made_with": describe(),
    }


def _subject(f: Callable, eps: float, data: Dataset, options: dict[str, Any]) -> Subject:
    n = options["images"]
    budget = Budget(square_queries=options["square_queries"])
    x, y = data.x_test[:n], data.y_test[:n]
    return make_subject(jax.random.key(0), f, x, y, eps=eps, batch_size=n, budget=budget)


def calibrate(given: dict[str, Any]) -> int:
    """Every net that has no record yet, then the report."""
    options = defaults(FLAGS) | given
    for name in ("images", "square_queries", "response_epochs"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    prepare(options["compilation_cache"])
    path = pathlib.Path(options["workdir"]) / "nets.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done, data = {record["net"] for record in records}, load("digits")
    for net in nets():
        if net.name in done:
            continue
        records.append(examine_net(net, data, options))
        # A process can map only so many compiled programs.
        jax.clear_caches()
        with path.open("a") as file:
            file.write(json.dumps(records[-1]) + "\n")
        print(_line(records[-1]), flush=True)
    order = {net.name: i for i, net in enumerate(nets())}
    records = sorted((r for r in records if r["net"] in order), key=lambda r: order[r["net"]])
    _write(records, options)
    return 0


def _write(records: list[dict[str, Any]], options: dict[str, Any]) -> None:
    found, made = report(records, options), describe()
    words = [f"--{f.name}={options[f.name]}" for f in FLAGS if options[f.name] != f.default]
    command = " ".join(["python benchmarks/calibrate_masking.py", *words])
    out = pathlib.Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), {"command": command, **found, "made_with": made})
    text = page(found, made, command)
    out.with_suffix(".md").write_text(text)
    print(text)
    inside = {name: written(limit) for name, limit in LIMITS.items()}
    for name, chosen in found["limits"].items():
        if inside[name] != chosen:
            print(f"l2ljax/masking/subject.py has {name} {inside[name]}, chosen is {chosen}")


def _line(record: dict[str, Any]) -> str:
    bad = [f"{c['name']} {c['number']:.3g}" for c in record["checks"] if c["verdict"] != "pass"]
    pgm10, seconds = record["accuracy"]["pgm10"], sum(record["seconds"].values())
    return (
        f"{record['net']}: pgm10 {pgm10:.1f}, strong {record['strong']:.1f}; "
        f"{', '.join(bad) or 'all pass'}; {seconds:.0f} s"
    )


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("calibrate_masking.py", __doc__, FLAGS, calibrate, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
