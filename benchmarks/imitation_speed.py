"""Imitation's speed: steps of the task a second, and seeds as one vmap against one by one.

    python benchmarks/imitation_speed.py --environment=CartPole-v1 --follower=l2l_gail --seeds=10

A turn of all seeds in one program, and as many turns of one seed, in alternating rounds; compiled
before. A follower looks at no real expert here, which costs the same. Writes OUT.md and OUT.json.
"""

import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.commands.flags import run_main
from l2ljax.imitation import make_environment, resolve
from l2ljax.imitation.followers import no_pairs
from l2ljax.imitation.runs import game_of
from l2ljax.machine import describe, prepare
from l2ljax.settings import Setting, defaults
from written import command, write

FLAGS = [
    Setting("environment", str, "tasks joined by commas", "CartPole-v1,Pendulum-v1"),
    Setting("follower", str, "followers joined by commas", "gail,l2l_gail,l2l_gail_opt"),
    Setting("seeds", int, "seeds of the one program", 10, "> 0"),
    Setting("rounds", int, "rounds of which the median is taken", 5, "> 0"),
    Setting("out", str, "path of the report without its ending", "runs/imitation_speed"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def turns(config: dict[str, Any], env: Any, seeds: int) -> Callable[[], float]:
    """() -> seconds of one turn of so many seeds in one program, compiled."""
    start, turn, _ = game_of(config, env)
    expert, state = no_pairs(env), start(jnp.arange(seeds))

    def run() -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = turn(state, expert)
        jax.block_until_ready(state)
        return time.perf_counter() - began

    run()
    return run


def bench(given: dict[str, Any]) -> int:
    """Every follower on every task."""
    options = defaults(FLAGS) | given
    chosen = [
        resolve({"environment": task, "follower": follower})
        for task in options["environment"].split(",")
        for follower in options["follower"].split(",")
    ]
    prepare(options["compilation_cache"])
    rows = []
    for config in chosen:
        env, n = make_environment(config["environment"]), options["seeds"]
        many, one = turns(config, env, n), turns(config, env, 1)
        taken = [(many(), sum(one() for _ in range(n))) for _ in range(options["rounds"])]
        together, alone = np.median(taken, 0)
        steps = config["copies"] * config["steps"]
        rows.append(
            {
                "environment": env.name,
                "follower": config["follower"],
                "seeds": n,
                "steps": steps,
                "seconds": {"together": [t for t, _ in taken], "alone": [t for _, t in taken]},
                "steps_a_second": {"together": n * steps / together, "alone": n * steps / alone},
                "ratio": float(np.median([a / b for b, a in taken])),
            }
        )
        print(f"{env.name} {config['follower']}: {n * steps / together:.0f} steps a second")
    report = {
        "command": command("imitation_speed.py", given),
        "rows": rows,
        "made_with": describe(),
    }
    about = (
        f"{options['seeds']} seeds as one vmap and one by one, a turn of {rows[0]['steps']:,} "
        f"steps each with the task's recipe; medians of {options['rounds']} rounds."
    )
    write(options["out"], report, about, table(rows))
    return 0


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per follower and task."""
    names = "task|follower|seeds|ms a turn of all|steps a second|one by one|as one, times as fast"
    lines: list[list[str]] = [[*names.split("|")]]
    for row in rows:
        rate, ms = row["steps_a_second"], 1e3 * np.median(row["seconds"]["together"])
        what = row["environment"], f"`{row['follower']}`", str(row["seeds"]), f"{ms:.0f}"
        lines.append(
            [*what, f"{rate['together']:.0f}", f"{rate['alone']:.0f}", f"{row['ratio']:.2f}"]
        )
    return lines


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("imitation_speed.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
