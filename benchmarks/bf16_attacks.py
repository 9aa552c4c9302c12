r"""What attacks lose on a net that computes in bfloat16, and that evaluate.py does not lose it.

    python experiments/train.py --method=pgm --dataset=digits --model=mlp --bf16 --epochs=15 \
        --workdir=runs/digits-bf16
    python benchmarks/bf16_attacks.py --workdir=runs/digits-bf16 --out=results/bf16_attacks

The weights of one run that was trained in bfloat16 are attacked in three ways, with the same
draws. `bfloat16`: the search asks the bfloat16 net and ends on its claims, which the same weights
in float32 judge. `evaluate.py`: search and verdict as the script runs them. `float32`: each attack
is called by itself on the float32 net, for every image, without a cascade around it; an image
stands if it stands after each run. Differences are paired by image and seed, in points of robust
accuracy; the interval is a bootstrap over images. An attack that draws nothing has one seed.
Writes OUT.json, with every flag of an image, and OUT.md.
"""

import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax import gate
from l2ljax.attacks import Attack, Budget, parse
from l2ljax.attacks.cascade import Run, batches, cascade, true_float32
from l2ljax.ball import per_image, scale
from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import freeze, robust
from l2ljax.machine import describe, prepare
from l2ljax.runs.run import load_data, load_run
from l2ljax.settings import Setting, check_eps, defaults
from written import command, write

FLAGS = [
    Setting("workdir", str, "a run with --bf16"),
    Setting("num_examples", int, "the first so many test and validation images", 500),
    Setting("seeds", int, "seeds of the attacks, pooled", 5),
    Setting("apgd_steps", int, "steps of apgd-ce, and of apgd-t per target", 100),
    Setting("fab_steps", int, "steps of fab-t per target", 100),
    Setting("targets", int, "targets of apgd-t and fab-t", 9),
    Setting("square_queries", int, "queries of square", 1000),
    Setting("batch_size", int, "images per batch", 250),
    Setting("draws", int, "draws of the bootstrap", 10_000),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("out", str, "path of what is written, without its ending", "runs/bf16_attacks"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

ATTACKS = ("fgsm", "pgm10", "pgm100x1", "apgd-ce", "apgd-t", "fab-t", "square", "autoattack")
DRAW_NOTHING = ("fgsm", "pgm10", "fab-t")

LIMIT = 0.5
"""Points: what may be lost, at the upper end of the interval."""


class Nets(NamedTuple):
    """The same weights in float32 and in bfloat16, and a set of images."""

    f: Callable[[jax.Array], jax.Array]
    bf16: Callable[[jax.Array], jax.Array]
    x: np.ndarray
    y: np.ndarray
    eps: float
    batch_size: int

    def how(self) -> dict[str, Any]:
        """The settings of a cascade."""
        return {"eps": self.eps, "norm": "linf", "batch_size": self.batch_size}


def opened(options: dict[str, Any]) -> tuple[Nets, str]:
    """The run's best checkpoint in both widths, and what net it is."""
    run = load_run(options["workdir"])
    config, weights = run.config, (run.theta, run.theta_stats)
    if not config["bf16"]:
        raise InputError(f"--workdir={run.workdir} was not trained with --bf16")
    data = load_data(config, options["data_dir"])
    n = options["num_examples"]
    x, y = np.concatenate([data.x_test, data.x_val]), np.concatenate([data.y_test, data.y_val])
    frozen = run.classifier, freeze(run.game.apply)(*weights)
    model = (
        f"{config['model']}, {config['epochs']} epochs of {config['method']} on "
        f"{config['dataset']}, eps = {config['eps']}"
    )
    return Nets(*frozen, x[:n], y[:n], check_eps(config["eps"]), options["batch_size"]), model


def elsewhere(run: Run, f: Callable[[jax.Array], jax.Array]) -> Run:
    """The same run, whose search asks f, whatever net judges it."""

    def play(rng, judge, x, y, *, eps, norm):
        return run.play(rng, f, x, y, eps=eps, norm=norm)

    return run._replace(play=play)


def in_bf16(rng: jax.Array, nets: Nets, attack: Attack) -> np.ndarray:
    """Which images stand after a search on the bfloat16 net; float32 judges."""
    runs = [elsewhere(run, nets.bf16) for run in attack.runs(10)]
    return cascade(rng, nets.f, nets.x, nets.y, runs, **nets.how()).robust


def as_evaluated(rng: jax.Array, nets: Nets, attack: Attack) -> np.ndarray:
    """Which images stand as evaluate.py has it."""
    return robust(rng, nets.f, nets.x, nets.y, attack, **nets.how())


def by_itself(rng: jax.Array, nets: Nets, attack: Attack) -> np.ndarray:
    """Which images stand after each run, called on the float32 net for all of them."""
    stood = np.zeros(len(nets.x), bool)
    for block, n in batches(np.arange(len(nets.x)), nets.batch_size):
        x, y = scale(jnp.asarray(nets.x[block])), jnp.asarray(nets.y[block])
        right = nets.f(x).argmax(-1) == y
        for run in attack.runs(10):
            keys = per_image(jax.random.fold_in(rng, run.draw), jnp.asarray(block))
            with true_float32():
                x_adv = run.play(keys, nets.f, x, y, eps=nets.eps, norm="linf")
                right &= nets.f(x_adv).argmax(-1) == y
        stood[block[:n]] = np.asarray(right)[:n]
    return stood


WAYS: dict[str, Callable[[jax.Array, Nets, Attack], np.ndarray]] = {
    "bfloat16": in_bf16,
    "evaluate.py": as_evaluated,
    "float32": by_itself,
}


def measure(nets: Nets, attack: Attack, seeds: int) -> dict[str, Any]:
    """Flags [seeds, images] and processor seconds of every way, its programs compiled before."""
    found: dict[str, Any] = {"attack": attack.name, "robust": {}, "seconds": {}}
    few = nets._replace(x=nets.x[: nets.batch_size], y=nets.y[: nets.batch_size])
    for way, play in WAYS.items():
        flags, spent = [], []
        play(jax.random.key(seeds), few, attack)
        for seed in range(1 if attack.name in DRAW_NOTHING else seeds):
            began = time.process_time()
            flags.append(play(jax.random.key(seed), nets, attack))
            spent.append(time.process_time() - began)
        found["robust"][way] = np.stack(flags)
        found["seconds"][way] = float(np.median(spent))
        print(f"{attack.name}, {way}: {100 * np.mean(flags):.2f} %", file=sys.stderr, flush=True)
    return found


def difference(a: np.ndarray, b: np.ndarray, draws: int) -> list[float]:
    """Points by which a stands more often than b, and the 95 % interval over images."""
    gap = 100 * (a.astype(float) - b).mean(0)
    rows = np.random.default_rng(0).integers(0, len(gap), (draws, len(gap)))
    low, high = np.percentile(gap[rows].mean(1), (2.5, 97.5))
    return [float(gap.mean()), float(low), float(high)]


def bench(given: dict[str, Any]) -> int:
    """Attack, compare, write."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise InputError("--workdir=FOLDER of a run with --bf16 is needed")
    for flag in FLAGS:
        if flag.kind is int:
            gate.check_count(f"--{flag.name}", options[flag.name])
    prepare(options["compilation_cache"])
    nets, model = opened(options)
    names = ("apgd_steps", "fab_steps", "targets", "square_queries")
    budget = Budget(**{name: options[name] for name in names})
    rows = [measure(nets, parse(name, budget=budget), options["seeds"]) for name in ATTACKS]
    for row in rows:
        flags = row["robust"]
        row["accuracy"] = {way: float(flags[way].mean()) for way in WAYS}
        row["lost"] = {
            way: difference(flags[way], flags["float32"], options["draws"])
            for way in ("bfloat16", "evaluate.py")
        }
        row["robust"] = {way: [_bits(seed) for seed in flags[way]] for way in WAYS}
    report = {
        "command": command("bf16_attacks.py", given),
        "eps": nets.eps,
        "images": len(nets.x),
        "seeds": options["seeds"],
        "model": model,
        "rows": rows,
        "made_with": describe(),
    }
    write(options["out"], report, _about(report), _lines(rows))
    return 0


def _bits(flags: np.ndarray) -> str:
    return "".join("1" if stood else "0" for stood in flags)


def _lines(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line an attack: accuracies, what is lost by either way, seconds."""

    def lost(row: dict[str, Any], way: str) -> str:
        gap, low, high = row["lost"][way]
        return f"{gap:+.2f} [{low:+.2f}, {high:+.2f}]"

    lines = [
        ["attack", *(f"{way}, %" for way in WAYS), "bfloat16 - float32", "evaluate.py - float32"]
    ]
    lines[0] += ["seconds: " + " / ".join(WAYS)]
    for row in rows:
        lines.append(
            [
                row["attack"],
                *(f"{100 * row['accuracy'][way]:.2f}" for way in WAYS),
                lost(row, "bfloat16"),
                lost(row, "evaluate.py"),
                " / ".join(f"{row['seconds'][way]:.1f}" for way in WAYS),
            ]
        )
    return lines


def _about(report: dict[str, Any]) -> str:
    rows = report["rows"]
    worst = {way: max(row["lost"][way][2] for row in rows) for way in ("bfloat16", "evaluate.py")}
    verdict = "holds" if worst["evaluate.py"] <= LIMIT else "FAILS"
    return (
        f"{report['model']}, trained in bfloat16; {report['images']} images, {report['seeds']} "
        f"seeds of what draws (all but {', '.join(DRAW_NOTHING)}). Robust accuracy, and "
        "by how many points it is above that of the attack called by itself on the same weights in "
        "float32, with 95 % intervals over images. `bfloat16`: the search asks the bfloat16 net, "
        "float32 judges what it returns, as evaluate.py did before; `evaluate.py`: as it does now, "
        f"all in float32. No more than {LIMIT} points may be lost at the upper end of an interval: "
        f"{verdict} (evaluate.py at most {worst['evaluate.py']:+.2f}; bfloat16 "
        f"{worst['bfloat16']:+.2f}). Seconds are of the processor, the median of the seeds, "
        "without compilation"
    )


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("bf16_attacks.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
