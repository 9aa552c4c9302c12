"""The evaluation of a run, and several runs side by side, if they may be compared.

    workdirs = short_names(["runs/digits-pgm-0", "runs/digits-plain-1"])
    configs, eps = read_comparable(workdirs, eps=None, split="test", plugins=files)
    opened = open_classifiers(workdirs, which="best", plugins=files)

All nets compute in float32, also those that were trained in bfloat16 (`Game.frozen`).

An evaluation is of one checkpoint, by its attacks, and is written to evaluation.json:

    found = evaluate_run("runs/a", attacks="clean,pgm10,autoattack")
    print(found.evaluation)
    found.written["results"]["pgm10"]["accuracy"]

An evaluation that is interrupted leaves its state beside the file it was to write, and the same
call goes on from there.
"""

import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.attacks.specs import Attacks, parse_all
from l2ljax.checkpoint import fingerprint
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import evaluate
from l2ljax.evaluation.results import Evaluation, trace_curves
from l2ljax.evaluation.resume import BAR_PARTS
from l2ljax.gate import check_count
from l2ljax.machine import describe
from l2ljax.plugins import Plugins
from l2ljax.runs import config as configuration
from l2ljax.runs.config import Config, check_output, write_json
from l2ljax.runs.run import Run, attacker_finder, images_of, load_data, load_run
from l2ljax.runs.summary import MaskingReport, masking_report
from l2ljax.settings import check_eps, fraction
from l2ljax.terminal import Progress


class OpenedRun(NamedTuple):
    """The classifier of a run in eval mode, and what identifies it."""

    workdir: str
    config: dict[str, Any]
    step: int
    sha256: str
    f: Partial


def short_names(workdirs: Sequence[str]) -> dict[str, str]:
    """Name -> workdir: the folder's own name, or the whole path where two have the same."""
    names = {workdir: pathlib.Path(workdir).resolve().name for workdir in workdirs}
    several = {name for name in names.values() if [*names.values()].count(name) > 1}
    return {workdir if name in several else name: workdir for workdir, name in names.items()}


def read_comparable(
    workdirs: Mapping[str, str], *, eps: str | None, split: str, plugins: Plugins
) -> tuple[dict[str, Config], str]:
    """Configurations of runs that may be compared, and the radius as text: eps, or their own."""
    configs = {name: configuration.read(workdir, plugins) for name, workdir in workdirs.items()}

    def same(name: str, refusal: str, value: Callable = str) -> None:
        if len({value(config[name]) for config in configs.values()}) > 1:
            found = ", ".join(f"{run} {config[name]}" for run, config in configs.items())
            raise InputError(f"the runs {refusal} (--{name}: {found})")

    same("dataset", "are of different data sets")
    if split == "val":
        same("val_size", "held out different validation images: attack --split=test")
    if eps is None:
        same("eps", "were trained at different radii: say which to use with --eps", fraction)
    text = eps or next(iter(configs.values()))["eps"]
    check_eps(text)
    return configs, text


def open_classifiers(
    workdirs: Mapping[str, str], *, which: str, plugins: Plugins
) -> dict[str, OpenedRun]:
    """Every classifier by its name; those of one architecture are compiled once."""
    opened, programs = {}, {}
    for name, workdir in workdirs.items():
        run = load_run(workdir, which, plugins=plugins)
        weights, data = (run.theta, run.theta_stats), run.game.data
        architecture = run.config["model"], run.config["dropout"], data.mean, data.std
        f = programs.setdefault(architecture, run.game.frozen)(*weights)
        opened[name] = OpenedRun(workdir, run.config, run.step, fingerprint(weights), f)
    return opened


class RunEvaluation(NamedTuple):
    """What was found of a run; `written` is what evaluation.json, at `output`, holds."""

    run: Run
    evaluation: Evaluation
    curves: dict[str, Any] | None
    masking: MaskingReport | None
    written: dict[str, Any]
    output: pathlib.Path


def evaluate_run(
    workdir: str | pathlib.Path,
    *,
    attacks: Attacks = "clean,fgsm,pgm10,pgm100x5",
    which: str = "best",
    split: str = "test",
    norm: str = "linf",
    eps: str | float | None = None,
    num_examples: int | None = None,
    batch_size: int = 250,
    seed: int = 0,
    parallel: str | None = None,
    budget: Budget = OFFICIAL,
    learned_scaling: str = "per_example_max",
    learned_steps: int | None = None,
    plugins: Plugins | Iterable[str | pathlib.Path] = (),
    curves: bool = False,
    masking: bool = False,
    siblings: Sequence[str] = (),
    response_epochs: int = 10,
    save_adversarials: str | None = None,
    data_dir: str | None = None,
    output: str | pathlib.Path | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> RunEvaluation:
    """Attack a checkpoint of a run in eval mode and float32, and write what came out.

    eps is the run's own unless it is given. plugins: files of one's own, of the run and of attacks
    that are named `FILE.py:NAME`. curves: accuracy against eps and against steps. masking: every
    check for gradient masking, with `siblings` the workdirs of other runs on the data set.
    save_adversarials: an npz for the images, their labels and what became of them. `progress` draws
    bars and prints warnings on the standard error; `say` is told what is evaluated and each table.
    """
    files = Plugins(plugins)
    find = attacker_finder(
        scaling=learned_scaling, steps=learned_steps, data_dir=data_dir, plugins=files
    )
    attacks, own = files.take_attacks(attacks)
    listed = parse_all(attacks, budget=budget, learned=find, extra=own)
    for attack in listed:
        attack.check_norm(norm)
    workdir = pathlib.Path(workdir)
    config = configuration.read(workdir, files)
    if norm != "linf" and eps is None:
        raise InputError(f"--norm={norm} needs --eps: the run trained in the l_inf ball")
    if norm != "linf" and masking:
        raise InputError(f"--masking_report looks at the l_inf ball, not at --norm={norm}")
    for sibling in siblings:
        configuration.read(
            sibling, files
        )  # one that is no run is refused before anything is attacked
    output = pathlib.Path(output or workdir / "evaluation.json")
    check_output("output", output)
    if save_adversarials:
        check_output("save_adversarials", pathlib.Path(save_adversarials))
    if num_examples is not None:
        check_count("num_examples", num_examples)
    text = str(eps or config["eps"])
    radius = check_eps(text, norm)
    run = load_run(workdir, which, plugins=files)
    data = load_data(config, data_dir)
    x, y = (array[: num_examples or len(array)] for array in images_of(data, split))
    say(
        f"{workdir}: {config['method']} on {config['dataset']}, {which} (step {run.step}), "
        f"{len(x)} {split} images, {norm} ball of eps = {text}"
    )
    f = run.classifier
    state_file = output.with_suffix(".unfinished")
    evaluation = evaluate(
        f,
        x,
        y,
        eps=radius,
        attacks=listed,
        norm=norm,
        batch_size=batch_size,
        seed=seed,
        budget=budget,
        keep_images=bool(save_adversarials),
        parallel=parallel,
        progress=progress,
        state_file=state_file,
        identity={"learned_scaling": learned_scaling, "learned_steps": learned_steps},
    )._replace(eps_text=text)
    say(str(evaluation))
    written = {
        **{"workdir": str(workdir), "which": which, "step": run.step, "split": split},
        **{"seed": seed, "budget": budget._asdict(), "config": config},
        **evaluation.as_json(),
    }
    traced = report = None
    how = {"eps": radius, "batch_size": batch_size}
    if curves:
        traced = written["curves"] = _trace(f, x, y, seed, norm=norm, progress=progress, **how)
    if masking:
        report = masking_report(
            run,
            x,
            y,
            seed=seed,
            response_epochs=response_epochs,
            siblings=siblings,
            plugins=files,
            budget=budget,
            known={result.attack: result.robust for result in evaluation.results},
            on_check=_say_check if progress else None,
            **how,
        )
        say(str(report))
        written["masking"] = report.as_json()
    written["made_with"] = describe()
    write_json(output, written)
    if save_adversarials:
        say(f"adversarial images in {_save_images(save_adversarials, x, y, evaluation)}")
    state_file.unlink(missing_ok=True)
    return RunEvaluation(run, evaluation, traced, report, written, output)


def _trace(f, x, y, seed: int, *, progress: bool, **how: Any) -> dict[str, Any]:
    key = jax.random.key(seed)
    if not progress:
        return trace_curves(key, f, x, y, **how)
    with Progress(BAR_PARTS, label="curves", unit=None) as bar:
        found = trace_curves(
            key, f, x, y, progress=lambda n, total: bar.update(BAR_PARTS * n // total), **how
        )
    for line in found["warnings"]:
        print(f"warning: curves: {line}", file=sys.stderr)
    return found


def _say_check(check: Any) -> None:
    print(f"masking: {check.name}: {check.verdict}; {check.why}", file=sys.stderr, flush=True)


def _save_images(name: str, x: np.ndarray, y: np.ndarray, evaluation: Evaluation) -> pathlib.Path:
    """The images, their labels, and for each attack its images and which of them stood."""
    path = pathlib.Path(name if name.endswith(".npz") else f"{name}.npz")
    arrays: dict[str, Any] = {"x": x, "y": y}
    for result in evaluation.results:
        arrays[f"{result.attack}/x_adv"] = result.x_adv
        arrays[f"{result.attack}/robust"] = result.robust
    np.savez(path, **arrays)
    return path
