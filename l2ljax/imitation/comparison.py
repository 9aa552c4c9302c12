"""Followers side by side: tune each with the same budget, run every cell, measure its stability.

    found = compare(environments=["Pendulum-v1"], followers=["gail", "l2l_gail"], trajectories=[10])
    found.rows[0]["area"]                     # [value, low, high]

A cell is a follower on a task with so many trajectories: one run with all seeds, in a folder of its
own, so that a finished one is not run again and an interrupted one goes on. Tuning draws settings
from one space by a fixed seed, the same number for every follower, and takes the largest area under
the curve on seeds that no cell uses.

Returns are put on the scale on which a policy without training is 0 and the expert's demonstrations
are 1. The spread of the final return is over seeds; the area under the curve is the mean over the
turns; a collapse is a fall below half of the best so far, after 0.9 was first reached, and the next
one counts when 0.9 has been reached again. Intervals are bootstraps over seeds.
"""

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from l2ljax.imitation.l2l_followers import FOLLOWERS
from l2ljax.imitation.leader import TASKS
from l2ljax.imitation.runs import imitate, resolve
from l2ljax.settings import Setting

REACHED, COLLAPSED = 0.9, 0.5

TUNED_ON = "1000,1001,1002"
"""The seeds of the tuning; no cell has one of them."""

UNTUNED = ("constant_reward", "blind", "cloning")
"""They have no follower to tune."""

OWN = {"gail_gp": ("penalty",), "l2l_gail_opt": ("unroll", "rule_lr")}
"""The settings to tune that one follower alone has."""

EVERYONE = tuple(name for name in (*FOLLOWERS, "cloning") if name != "environment")

COMPARISON = [
    Setting("trials", int, "settings tried for every learned follower; 0: none", 0, ">= 0"),
    Setting("tune_trajectories", int, "with --trials: how many the trials have", 4, "> 0"),
    Setting("draws", int, "draws of the bootstrap", 10_000, "> 0"),
]


class Cell(NamedTuple):
    """One follower on one task: curves [seeds, turns] and final returns [seeds], as measured.

    accuracy [seeds, turns] is D's, where there is one.
    """

    curves: np.ndarray
    final: np.ndarray
    floor: float
    expert: float
    accuracy: np.ndarray | None = None


class Comparison(NamedTuple):
    """A row for every cell, by task and follower what tuning found, and the cells themselves."""

    rows: list[dict[str, Any]]
    tuning: dict[str, dict[str, Any]]
    cells: dict[tuple[str, int, str], Cell]


def compare(
    *,
    environments: Sequence[str] = tuple(TASKS),
    followers: Sequence[str] = EVERYONE,
    trajectories: Sequence[int] = (1, 10),
    trials: int = 0,
    tune_trajectories: int = 4,
    draws: int = 10_000,
    workdir: str | pathlib.Path = "runs/imitation",
    tell: Callable[[str], None] = lambda line: None,
    run: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Comparison:
    """Run or read every cell, and measure it.

    `settings` and `run` are for `imitate`: what decides the outcome, and what does not. `tell` is
    given a line after every trial and every cell.
    """
    for setting, value in zip(COMPARISON, (trials, tune_trajectories, draws), strict=True):
        setting.check(value)
    configs = cells_of(environments, followers, trajectories, **settings)
    root, run = pathlib.Path(workdir), run or {}
    tuning: dict[str, dict[str, Any]] = {}
    if trials:
        for task, follower in dict.fromkeys((c["environment"], c["follower"]) for c in configs):
            if follower not in UNTUNED:
                which = {"environment": task, "follower": follower, "seeds": TUNED_ON}
                which["trajectories"] = tune_trajectories
                found = _tune(settings | which, trials, root / "tuning", run, tell)
                tuning.setdefault(task, {})[follower] = found
    rows, cells = [], {}
    for config in configs:
        task, n, follower = (config[k] for k in ("environment", "trajectories", "follower"))
        chosen = tuning.get(task, {}).get(follower, {}).get("flags", {})
        cell = measured(config | chosen, root / f"{task}-{follower}-{n}", run)
        cells[task, n, follower] = cell
        row = {"config": config | chosen, **measure(cell, draws), "expert": cell.expert}
        rows.append(row | {"share": float(scaled(cell.final, cell).mean())})
        tell(f"{task}-{follower}-{n}: final {cell.final.mean():.1f}")
    for row in rows:
        task, n, follower = (row["config"][k] for k in ("environment", "trajectories", "follower"))
        if follower != "gail" and (plain := cells.get((task, n, "gail"))) is not None:
            row["against_gail"] = against(cells[task, n, follower], plain, draws)
    return Comparison(rows, tuning, cells)


def cells_of(
    environments: Sequence[str] = tuple(TASKS),
    followers: Sequence[str] = EVERYONE,
    trajectories: Sequence[int] = (1, 10),
    **settings: Any,
) -> list[dict[str, Any]]:
    """The configuration of every cell, checked."""
    return [
        resolve(settings | {"environment": task, "follower": follower, "trajectories": n})
        for task, n, follower in itertools.product(environments, trajectories, followers)
    ]


def _tune(
    settings: dict[str, Any],
    trials: int,
    root: pathlib.Path,
    run: Mapping[str, Any],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The trials of a follower on a task, and the best one's settings."""
    tried = []
    for trial, drawn in enumerate(trial_settings(settings["follower"], trials)):
        config = resolve(settings | drawn)
        name = "-".join(str(config[k]) for k in ("environment", "follower", "trajectories"))
        cell = measured(config, root / f"{name}-{trial}", run)
        tried.append({"flags": drawn, "area": float(area(cell).mean())})
        said = f"area {tried[-1]['area']:.3f}, {drawn or 'the recipe'}"
        tell(f"tuning {name}-{trial}: {said}")
    return {"flags": max(tried, key=lambda trial: trial["area"])["flags"], "trials": tried}


def trial_settings(follower: str, trials: int) -> list[dict[str, float]]:
    """Settings of each trial: the recipe's own, then the same for every follower, and OWN."""
    rng, own_rng = np.random.default_rng(0), np.random.default_rng(1)

    def between(rng: np.random.Generator, low: float, high: float) -> float:
        """A number whose logarithm is uniform, to two digits."""
        return float(f"{10 ** rng.uniform(np.log10(low), np.log10(high)):.2g}")

    drawn: list[dict[str, float]] = [{}]
    for _ in range(1, trials):
        common = {
            "phi_lr": between(rng, 1e-4, 1e-2),
            "phi_steps": int(rng.choice([1, 2, 5, 10])),
            "theta_lr": between(rng, 10**-3.5, 10**-2.5),
        }
        own = {
            "penalty": between(own_rng, 0.1, 10.0),
            "unroll": int(own_rng.choice([1, 3, 5, 10])),
            "rule_lr": between(own_rng, 1e-4, 1e-2),
        }
        drawn.append(common | {name: own[name] for name in OWN.get(follower, ())})
    return drawn


def measured(config: Mapping[str, Any], workdir: pathlib.Path, run: Mapping[str, Any]) -> Cell:
    """One cell, run to its end or read."""
    found = imitate(**config, **run, workdir=workdir)
    final = np.array(found.summary["returns"])
    curves = found.metrics.get("return", final[:, None])  # cloning has no turns
    floor = TASKS[config["environment"]].floor
    return Cell(curves, final, floor, found.expert, found.metrics.get("phi/accuracy"))


def scaled(returns: np.ndarray, cell: Cell) -> np.ndarray:
    """0 for a policy without training, 1 for the expert; before the first episode's end 0."""
    return np.nan_to_num((returns - cell.floor) / (cell.expert - cell.floor), nan=0.0)


def collapses(curve: np.ndarray) -> int:
    """How often one seed's curve collapsed; the curve is on that scale."""
    count, high, best = 0, False, 0.0
    for value in curve:
        best = max(best, value)
        if value >= REACHED:
            high = True
        elif high and value < COLLAPSED * best:
            count, high = count + 1, False
    return count


def area(cell: Cell) -> np.ndarray:
    """The area under the curve of every seed."""
    return scaled(cell.curves, cell).mean(1)


def collapsed(cell: Cell) -> np.ndarray:
    """How often every seed collapsed."""
    return np.array([collapses(curve) for curve in scaled(cell.curves, cell)], float)


MEASURES: dict[str, tuple[Callable[[Cell], np.ndarray], Callable[[np.ndarray], Any]]] = {
    "final": (lambda cell: cell.final, lambda v: v.mean(-1)),
    "spread": (lambda cell: cell.final, lambda v: v.std(-1)),
    "area": (area, lambda v: v.mean(-1)),
    "collapses": (collapsed, lambda v: v.mean(-1)),
}
"""By name: a value of every seed, and what is made of them. `area` and `collapses` need turns."""


def measure(cell: Cell, draws: int) -> dict[str, list[float]]:
    """Each measure with its 95 % interval, for which the seeds are drawn anew."""
    rows = _draw_seeds([cell], draws)[0]
    return {
        name: _interval(make(values), make(values[rows])) for name, values, make in _values(cell)
    }


def against(cell: Cell, other: Cell, draws: int) -> dict[str, list[float]]:
    """Each measure minus the other cell's, whose seeds are drawn independently."""
    rows, others = _draw_seeds([cell, other], draws)
    theirs = {name: values for name, values, _ in _values(other, every=True)}
    return {
        name: _interval(make(a) - make(theirs[name]), make(a[rows]) - make(theirs[name][others]))
        for name, a, make in _values(cell)
    }


def _draw_seeds(cells: Sequence[Cell], draws: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, len(c.final), (draws, len(c.final))) for c in cells]


def _interval(value: Any, drawn: np.ndarray) -> list[float]:
    return [float(value), *map(float, np.percentile(drawn, (2.5, 97.5)))]


def _values(cell: Cell, every: bool = False) -> list[tuple[str, np.ndarray, Callable]]:
    """Name, a value of every seed, and what is made of them; without turns only of the finals."""
    shown = {} if every or cell.curves.shape[1] > 1 else {"area", "collapses"}
    return [(name, of(cell), make) for name, (of, make) in MEASURES.items() if name not in shown]


SHOWN = {"final return": "final", "spread over seeds": "spread", "area": "area"}
SHOWN |= {"collapses a run": "collapses"}
PLACES = {"final": 1, "spread": 1, "area": 3, "collapses": 2}
KEY = ["task", "follower", "trajectories"]


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line for every cell, each measure with its interval."""
    return [[*KEY, "seeds", *SHOWN, "of the expert"]] + [
        [
            *_which(row),
            str(len(row["config"]["seeds"].split(","))),
            *_intervals(row),
            f"{100 * row['share']:.0f} %",
        ]
        for row in rows
    ]


def gaps(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line for every follower beside gail: its measures minus gail's."""
    beside = [row for row in rows if "against_gail" in row]
    lines = [[*_which(row), *_intervals(row["against_gail"], "+")] for row in beside]
    return [[*KEY, *SHOWN], *lines]


def _which(row: Mapping[str, Any]) -> tuple[str, str, str]:
    c = row["config"]
    return c["environment"], f"`{c['follower']}`", str(c["trajectories"])


def _intervals(of: Mapping[str, Any], sign: str = "") -> list[str]:
    """`0.912 [0.900, 0.930]` for every measure that there is."""
    shown = []
    for name in SHOWN.values():
        value, low, high = (format(v, f"{sign}.{PLACES[name]}f") for v in of.get(name, [0.0] * 3))
        shown.append(f"{value} [{low}, {high}]" if name in of else "")
    return shown
