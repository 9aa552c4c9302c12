"""A run, finished or not: what it was made of, one of its checkpoints, and what can be asked of it.

    run = load("runs/a", which="best_ema")
    run.classifier(images)                   # logits, in eval mode and float32
    run.summary["test"]["best"]["pgm10"]["accuracy"]

The images of the data set are not needed for this: data.json in the folder says what the networks
must know of them.

Its trained attacker phi is an attack on any model, `--attacks=learned:WORKDIR`:

    attacks = parse_all("pgm10,learned:runs/a", learned=attacker_finder(data_dir=folder))

As an attack no image may depend on the images beside it. An attacker that was trained on the
gradient over the maximum of its batch (`batch_max`) sees it over the image's own maximum, or, with
scaling="frozen", over the maximum of one training batch of its own run.
"""

import inspect
import json
import pathlib
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from l2ljax.attacks.learned import gradient_scale, learned_attack
from l2ljax.attacks.specs import OneRun
from l2ljax.checkpoint import Checkpoints, Kind
from l2ljax.data import Dataset, from_user, load
from l2ljax.errors import CheckpointError, InputError, word
from l2ljax.evaluation.resume import digest
from l2ljax.gate import check_count
from l2ljax.machine import cache_folder
from l2ljax.plugins import Plugins, split
from l2ljax.record import read as read_record
from l2ljax.runs import config as configuration
from l2ljax.runs.config import Config, write_json
from l2ljax.runs.from_config import game_of, method_of
from l2ljax.runs.game import Game
from l2ljax.types import Array, State, Tree

KINDS: dict[str, Kind] = {
    "best": "best",
    "last": "last",
    "best_ema": "best_ema",
    "last_ema": "last",
}
WHICH = tuple(KINDS)
"""The epoch of the best validation robust accuracy, or the last; theta itself, or its average."""


class Run:
    """One checkpoint of a run: theta and its statistics are the raw or the averaged ones."""

    def __init__(
        self, game: Game, checkpoints: Any, which: str, *, workdir: Any = None, config: Any = None
    ) -> None:
        """The checkpoint `which`, restored and verified; `checkpoints` are closed by the caller."""
        word("which", which, WHICH)
        self.game, self.which, self.workdir, self.config = game, which, workdir, config
        self._checkpoints = checkpoints
        if which not in kinds_of(game):
            raise InputError(f"--which={which}: {workdir} kept no average (--ema_decay was 0)")
        restored = checkpoints.restore(game.abstract, kind=KINDS[which])
        if restored is None:
            raise CheckpointError(f"{workdir} holds no {KINDS[which]} checkpoint yet")
        self.state: State = restored[0]
        self.notes: dict[str, Any] = restored[1]
        self.step: int = restored[2]
        average = which.endswith("_ema")
        self.theta: Tree = self.state.ema if average else self.state.theta
        self.theta_stats: Tree = self.state.ema_stats if average else self.state.theta_stats
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []
        if workdir is not None:
            self.summary = _read_summary(pathlib.Path(workdir))
            lines = pathlib.Path(workdir) / "metrics.jsonl"
            self.history = read_record(lines) if lines.exists() else []

    def at(self, which: str) -> "Run":
        """Another checkpoint of the same run."""
        if self.workdir is not None:
            with Checkpoints(self.workdir, report=warnings.warn) as checkpoints:
                other = Run(self.game, checkpoints, which, workdir=self.workdir, config=self.config)
        else:
            other = Run(self.game, self._checkpoints, which)
            other.summary, other.history = self.summary, self.history
        return other

    @property
    def classifier(self) -> Callable[[Array], Array]:
        """Images in [0, 1] -> logits, in eval mode and float32: ready for any attack."""
        return self.game.frozen(self.theta, self.theta_stats)

    @property
    def attacker(self) -> Callable[..., Array]:
        """phi as an attack on any model: (rng, f, x, y, *, eps) -> x_adv."""
        from l2ljax.runs.run import attack_of

        return attack_of(self)


def kinds_of(game: Game) -> tuple[str, ...]:
    """The checkpoints a run of that game has."""
    return WHICH if game.abstract.ema else WHICH[:2]


def load_run(
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    plugins: Plugins | Iterable[str | pathlib.Path] = (),
    game: Game | None = None,
) -> Run:
    """A checkpoint of the run in that folder.

    A file of the user's own that the run was made with is executed only if it is given in
    `plugins`. A run that `fit` made from objects needs the same game again.
    """
    workdir = pathlib.Path(workdir)
    config = None
    if game is None:
        config = configuration.read(workdir, plugins)
        config.warn_if_plugins_changed(workdir)
        game = game_of(config, read_facts(workdir))
    with Checkpoints(workdir, report=warnings.warn) as checkpoints:
        return Run(game, checkpoints, which, workdir=workdir, config=config)


FACTS = ("name", "num_classes", "class_names", "mean", "std")
"""What data.json says of a data set, besides the sizes of its images and its parts."""


def facts_of(data: Dataset) -> dict[str, Any]:
    """What a network must know of the data it was trained on."""
    facts = {name: getattr(data, name) for name in FACTS}
    facts["image_shape"] = [int(side) for side in data.x_train.shape[1:]]
    facts["dtype"] = str(data.x_train.dtype)
    facts["images"] = {p: len(getattr(data, f"x_{p}")) for p in ("train", "val", "test")}
    return facts


def write_facts(workdir: pathlib.Path, data: Dataset) -> None:
    """Write data.json; a folder whose run has begun on other data is refused."""
    facts = facts_of(data) | _digests(data)
    path, facts = workdir / "data.json", json.loads(json.dumps(facts))
    if not path.exists():
        return write_json(path, facts)
    there = json.loads(path.read_text())
    changed = [f"{k}: {there[k]} -> {v}" for k, v in facts.items() if there.get(k, v) != v]
    if changed:
        raise InputError(
            f"{workdir} holds a run on other data ({'; '.join(changed)}): give those, or another "
            "--workdir"
        )


def _digests(data: Dataset) -> dict[str, str]:
    """What tells the images and labels in memory from any others; those on a disk are not read."""
    parts = {name: getattr(data, name) for name in data._fields if name[:2] in ("x_", "y_")}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    return {f"sha256 of {name}": digest(part) for name, part in arrays.items()}


def read_facts(workdir: pathlib.Path) -> Dataset:
    """The data set that data.json describes, without its images: they take no memory."""
    path = workdir / "data.json"
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{workdir} is of another version: it has no data.json") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    parts: dict[str, Any] = {}
    for part, n in facts["images"].items():
        shape = (n, *facts["image_shape"])
        parts[f"x_{part}"] = np.broadcast_to(np.zeros((), facts["dtype"]), shape)
        parts[f"y_{part}"] = np.broadcast_to(np.int32(0), (n,))
    known = {n: tuple(v) if isinstance(v := facts[n], list) else v for n in FACTS}
    return Dataset(**known, **parts, augment="none")


def load_data(config: Config, data_dir: str | None, download: bool = True) -> Dataset:
    """The splits that a configuration trains and validates on."""
    text, sizes = config["dataset"], {n: config[n] for n in ("val_size", "train_size")}
    if split(text) is not None:
        function = config.find("dataset", {})
        return from_user(function(**config.of(function)), text, **sizes)
    folder = data_dir or str(cache_folder("data"))
    sizes["image_size"] = config["image_size"]
    return load(text, data_dir=folder, download=download, **sizes)


def images_of(data: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of --split, test or val; a run may have held out none for val."""
    x, y = (data.x_test, data.y_test) if split == "test" else (data.x_val, data.y_val)
    if not len(x):
        raise InputError(f"--split={split}: the run held out no validation images (--val_size=0)")
    return x, y


def _read_summary(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


SCALINGS = ("per_example_max", "frozen")
"""Over the image's own maximum, or over that of one training batch of the attacker's own run."""


def attack_of(
    run: Run, *, scaling: str = "per_example_max", steps: int | None = None, data_dir: Any = None
) -> Callable[..., Array]:
    """The trained attacker of a run, as an attack on any model: (rng, f, x, y, *, eps) -> x_adv.

    `steps` are those of the inner problem, if not as it was trained.
    """
    word("learned_scaling", scaling, SCALINGS)
    config, method, name = run.config, run.game.method, run.workdir
    if not method.learns:
        raise InputError(f"learned:{name}: {_called(run)} trains no attacker")
    if method.paired:
        raise InputError(
            f"learned:{name}: {_called(run)} moves an image towards another one of its batch; it "
            "is no attack on an image alone"
        )
    solver, loss, scale = method.solver, "ce", None
    if config is not None:
        loss = str(config.get("attack_loss") or "ce")
        changed: dict[str, Any] = {"bf16": False}
        if steps is not None:
            if "inner_steps" not in inspect.signature(config.method()).parameters:
                raise InputError(f"learned_steps={steps}: {_called(run)} has no steps to count")
            check_count("learned_steps", steps)
            changed["inner_steps"] = steps
        if config.get("grad_norm") == "batch_max":
            changed["grad_norm"] = "none" if scaling == "frozen" else "per_example_max"
            if scaling == "frozen":
                data, n = load_data(config, data_dir), config["batch_size"]
                scale = gradient_scale(
                    run.classifier, data.x_train[:n], data.y_train[:n], loss=loss
                )
        solver = method_of(config | changed, run.game.data.x_train.shape[-1]).solver
    return partial(
        _play,
        solver=solver,
        phi=run.state.phi,
        phi_stats=run.state.phi_stats,
        loss=loss,
        scale=scale,
        shape=run.game.data.x_train.shape[1:],
        name=name,
    )


def attacker_finder(
    *,
    scaling: str = "per_example_max",
    steps: int | None = None,
    data_dir: str | None = None,
    plugins: Plugins | Iterable[str | pathlib.Path] = (),
) -> Callable[[str], OneRun]:
    """workdir -> the attacker of the run in it as a part of an attack."""

    def find(name: str) -> OneRun:
        run = load_run(name, plugins=plugins)
        attack = attack_of(run, scaling=scaling, steps=steps, data_dir=data_dir)
        inner = steps or (run.config or {}).get("inner_steps") or 1
        return OneRun(attack, cost=4.0 * int(inner))

    return find


def _called(run: Run) -> str:
    return "this game" if run.config is None else run.config["method"]


def _play(rng, f, x, y, *, eps, norm="linf", shape, name, **settings):
    if x.shape[1:] != shape:
        raise InputError(f"learned:{name} was trained on images of another shape")
    return learned_attack(rng, f, x, y, eps=eps, **settings)
