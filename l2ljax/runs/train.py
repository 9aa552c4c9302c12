"""A training run as a call: everything that the command `train` does, without its command line.

    run = train(method="grad_l2l", dataset="digits", seed=0, workdir="runs/a")     # by settings
    run = fit(make_game(...), epochs=30)                                           # by objects

A call has no side effects but its folder: it changes no configuration of JAX, prints nothing
unless `progress` is asked for, and handles SIGTERM and Ctrl-C only while it runs in the main
thread: the run then saves itself and raises `Interrupted`. A run that the command started is
resumed by the call and the other way round, bit for bit.
"""

import contextlib
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from l2ljax.attacks import Attack, parse_all
from l2ljax.checkpoint import Checkpoints
from l2ljax.data import Dataset
from l2ljax.errors import InputError, word
from l2ljax.gate import check_count
from l2ljax.machine import have
from l2ljax.parallel import is_first_process
from l2ljax.plugins import Plugins
from l2ljax.runs.config import Config, open_workdir, resolve, short_name, show, write_json
from l2ljax.runs.from_config import game_of, layout_of, method_of
from l2ljax.runs.game import Callback, Game, Options
from l2ljax.runs.loop import Loop
from l2ljax.runs.run import Run, load_data, write_facts
from l2ljax.runs.settings import OPTIONS, table
from l2ljax.runs.summary import summarise
from l2ljax.settings import defaults

Files = Plugins | Iterable[str | pathlib.Path]


def train(
    *,
    seed: int = 0,
    workdir: str | pathlib.Path | None = None,
    callbacks: Sequence[Callback] = (),
    plugins: Files = (),
    progress: bool = False,
    **settings: Any,
) -> Run:
    """Train by settings, the flags of the command, and attack the test set; the finished run.

    Without a workdir it is runs/DATASET-METHOD-SEED. The same call again resumes an interrupted
    run and reads a finished one. `callbacks` are called after every epoch (`game.Callback`),
    `plugins` are files of one's own, and `progress` shows what the command shows.

    Of several processes the first alone attacks the test set and has a finished run: there call
    `train_seeds`, whose list is empty in the others.
    """
    if jax.process_count() > 1:
        raise InputError(
            "train returns a finished run, which of several processes the first alone has: call "
            "l2ljax.runs.train.train_seeds"
        )
    return train_seeds(
        [seed],
        workdir=workdir,
        callbacks=callbacks,
        plugins=plugins,
        progress=progress,
        **settings,
    )[0]


def train_seeds(
    seeds: Sequence[int],
    *,
    workdir: str | pathlib.Path | None = None,
    callbacks: Sequence[Callback] = (),
    plugins: Files = (),
    progress: bool = False,
    on_end: Callable[[Run], Any] | None = None,
    **settings: Any,
) -> list[Run]:
    """One run for every seed, of one game that is compiled once; `on_end` is told of each."""
    files = Plugins(plugins)
    say = print if progress and is_first_process() else _say_nothing
    config, options = _read_settings(settings, files)
    attacks = parse_attacks(options["final_attacks"], files)
    method_of(config, channels=1)  # what cannot be played is refused before data are fetched
    data = load_data(config, options["data_dir"], options["download"])
    layout = layout_of(config, options["parallel"])
    game = game_of(config, data, layout)
    say(layout.describe())
    say(f"flags: {show(config)}")
    say(_describe(data, config["eps"]))
    if not len(data.x_val):
        say(
            "no validation images: the last epoch is taken as the best, and nothing watches for "
            "catastrophic overfitting"
        )
    if jax.default_backend() == "cpu" and config["recipe"] != "quick" and progress:
        print("on a CPU this is slow: --recipe=quick has smaller nets", file=sys.stderr)
    how = Options(**{name: options[name] for name in Options._fields})
    ended, runs = [], []
    for seed in seeds:
        folder = folder_of(workdir, config, seed, several=len(seeds) > 1)
        if config["init_from"] not in ("", "none") and not (folder / "config.json").exists():
            game.init(seed)  # a start that cannot be had is refused before anything is written
        if is_first_process():
            open_workdir(folder, {"seed": seed, **config})
            write_facts(folder, data)
        with _memory_explained(config):
            Loop(
                game,
                epochs=config["epochs"],
                seed=seed,
                workdir=folder,
                options=how,
                callbacks=callbacks,
                progress=progress,
            ).play()
        ended.append(folder)
        # Of several processes one alone attacks the test set, when all have trained.
        if jax.process_count() == 1:
            runs.append(_conclude(ended.pop(), game, attacks, options, config, on_end))
    return runs + [
        _conclude(folder, game, attacks, options, config, on_end)
        for folder in ended
        if is_first_process()
    ]


def fit(
    game: Game,
    *,
    epochs: int,
    seed: int = 0,
    workdir: str | pathlib.Path | None = None,
    callbacks: Sequence[Callback] = (),
    final_attacks: str = "clean,fgsm,pgm10",
    plugins: Files = (),
    progress: bool = False,
    **options: Any,
) -> Run:
    """Play a game of one's own objects; without a workdir the run stays in memory.

    `options` are those of `runs.game.Options`. Objects have no words, so that a run in a folder
    is resumed with the same game, and it is the caller's to give it.
    """
    check_count("epochs", epochs)
    rows = {setting.name: setting for setting in OPTIONS}
    for name, value in options.items():
        word("option of fit", name, Options._fields)
        rows[name].check(value)
    files = Plugins(plugins)
    attacks = parse_attacks(final_attacks, files)
    how, folder = Options(**options), None if workdir is None else pathlib.Path(workdir)
    described = {
        "made_by": "fit",
        "seed": seed,
        "epochs": epochs,
        "dataset": game.data.name,
        "eps": game.eps,
        "batch_size": game.batch_size,
        "accumulate": game.accumulate,
    }
    if folder is not None and is_first_process():
        open_workdir(folder, described)
        write_facts(folder, game.data)
    loop = Loop(
        game,
        epochs=epochs,
        seed=seed,
        workdir=folder,
        options=how,
        callbacks=callbacks,
        progress=progress,
    )
    loop.play()
    if folder is not None:
        opts = {**how._asdict(), "select_check": 0}
        return _conclude(folder, game, attacks, opts, None, None)
    run = Run(game, loop.checkpoints, "best")
    run.summary = summarise(game, loop.checkpoints, attacks, eval_batch=how.eval_batch)
    run.history = loop.record.merged()
    return run


def parse_attacks(text: str, plugins: Plugins) -> list[Attack]:
    """The attacks of that text, those in the user's own files among them; no text is none."""
    if not text:
        return []
    attacks, own = plugins.take_attacks(text)
    return parse_all(attacks, extra=own)


def folder_of(
    given: str | pathlib.Path | None, config: Config, seed: int, several: bool
) -> pathlib.Path:
    """Where a run is written: as given, or runs/DATASET-METHOD-SEED; of several one folder each."""
    name = f"{short_name(config['dataset'])}-{short_name(config['method'])}-{seed}"
    if given is None:
        return pathlib.Path("runs") / name
    return pathlib.Path(given) / name if several else pathlib.Path(given)


def _read_settings(settings: dict[str, Any], plugins: Plugins) -> tuple[Config, dict[str, Any]]:
    """What decides the outcome, and how the run is carried out."""
    ways = {s.name: s for s in OPTIONS}
    config = resolve({k: v for k, v in settings.items() if k not in ways}, plugins)
    known = {s.name for s in table(plugins, config)}
    for name in settings:
        word("setting", name, [*known, *ways])
    options = defaults(OPTIONS) | {k: v for k, v in settings.items() if k in ways}
    for name, setting in ways.items():
        setting.check(options[name], "--")
    if options["tensorboard"] is None:
        options["tensorboard"] = have("tensorboardX")
    if options["select_check"] and config["val_size"] == 0:
        raise InputError(
            f"--select_check={options['select_check']} looks at validation images, and "
            "--val_size=0 holds none out"
        )
    return config, options


def _conclude(
    folder: pathlib.Path,
    game: Game,
    attacks: Sequence[Attack],
    options: dict[str, Any],
    config: Config | None,
    on_end: Callable[[Run], Any] | None,
) -> Run:
    """Attack the test set and write summary.json, unless it is there already."""
    with Checkpoints(folder, report=warnings.warn) as checkpoints:
        run = Run(game, checkpoints, "best", workdir=folder, config=config)
        names, checked = [attack.name for attack in attacks], options["select_check"]
        there = run.summary
        if there.get("attacks") != names or checked not in (0, there["select_check_images"]):
            run.summary = summarise(
                game,
                checkpoints,
                attacks,
                eval_batch=options["eval_batch"],
                select_check=checked,
                named=config,
            )
            write_json(folder / "summary.json", run.summary)
    if on_end is not None:
        on_end(run)
    return run


def _describe(data: Dataset, eps: str) -> str:
    return (
        f"{data.name}: {len(data.x_train)} training, {len(data.x_val)} validation, "
        f"{len(data.x_test)} test images of {'x'.join(map(str, data.x_train.shape[1:]))}, "
        f"{data.num_classes} classes; eps = {eps}"
    )


@contextlib.contextmanager
def _memory_explained(config: Config):
    """What to do where the device has too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"out of memory at --batch_size={config['batch_size']}: a smaller one, --accumulate=2 "
            "(parts of a batch, one after another), --remat, --bf16 or --data_on=host need less"
        ) from error


def _say_nothing(line: str) -> None:
    """A call that was not asked to show its progress."""
