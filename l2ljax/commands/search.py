"""Random search over a method's settings, chosen on the validation split alone.

    python experiments/search.py --method=grad_l2l --trials=30 --out=runs/search

Every method gets the same number of trials from a space declared here, before anything was run; of
a method of your own the space is made of what its signature declares. Trials are lines of
OUT/METHOD.jsonl; the same command again goes on where it stopped.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2ljax.commands.flags import DATA_DIR, PLUGINS, files_of, run_main
from l2ljax.data import Dataset
from l2ljax.errors import InputError
from l2ljax.plugins import Plugins, split
from l2ljax.runs.config import Config, resolve
from l2ljax.runs.run import Run
from l2ljax.settings import Setting, defaults, settings_of

FLAGS = [
    Setting("method", str, "the method to search settings for", "grad_l2l"),
    Setting("dataset", str, "the data set; its validation split chooses", "digits"),
    Setting("trials", int, "how many settings are tried", 30, "> 0"),
    Setting("out", str, "folder of the trials' records", "runs/search"),
    Setting("seed", int, "seed of the draws and of the training runs", 1000, ">= 0"),
    DATA_DIR,
    PLUGINS,
]

COMMON: dict[str, tuple] = {
    "epochs": (30, 60),
    "batch_size": (64, 128),
    "augment": ("none", "crop"),
    "theta_lr": (0.05, 0.1, 0.2, 0.4),
    "theta_wd": (2e-4, 5e-4, 2e-3),
    "theta_schedule": ("cyclic", "cosine"),
    "label_smoothing": (0.0, 0.1, 0.3),
    "ema_decay": (0.0, 0.99),
    "craft_bn": ("batch", "eval"),
}

LEARNED: dict[str, tuple] = {
    "attacker": ("wide", "two_layer"),
    "grad_norm": ("batch_max", "per_example_max", "sign"),
    "attacker_start": ("zero", "uniform"),
    "attack_loss": ("ce", "margin"),
    "order": ("simultaneous", "alternating"),
    "phi_lr": (3e-4, 1e-3, 3e-3, 1e-2),
    "phi_wd": (0.0, 2e-4),
}

INNER: dict[str, tuple] = {"attack_loss": ("ce", "margin")}

# Without a gradient there is nothing to normalise, to start from, or to climb but the loss.
NAIVE = {n: LEARNED[n] for n in ("attacker", "order", "phi_lr", "phi_wd")}

# The interpolation attack has no labels to climb, and its noise is always there.
INTERP = {n: v for n, v in LEARNED.items() if n not in ("attack_loss", "attacker_start", "order")}
INTERP |= {"interp_label": (0.1, 0.3, 0.5)}

RNN: dict[str, tuple] = {
    "inner_steps": (5, 7, 10),
    "rnn_input": ("sign_log", "batch_max"),
    "rnn_weights": ("ones", "last"),
    "rnn_bound": (0.5, 2.0),
    "phi_lr": (1e-3, 3e-3, 1e-2, 3e-2),
}

BETA: dict[str, tuple] = {"trades_beta": (1.0, 3.0, 6.0)}

SPACES: dict[str, dict[str, tuple]] = {
    "plain": COMMON,
    "fgsm": COMMON | INNER | {"clean_mix": (True, False)},
    "pgm": COMMON
    | {
        "inner_steps": (5, 7, 10),
        "inner_step": ("0.025", "0.05", "0.07"),
        "attacker_start": ("zero", "uniform"),
        "clean_mix": (True, False),
        "attack_loss": ("ce", "margin"),
    },
    "naive_l2l": COMMON | NAIVE,
    "grad_l2l": COMMON | LEARNED,
    "two_step_l2l": COMMON | LEARNED,
    "multistep_l2l": COMMON | LEARNED | {"inner_steps": (3, 5)},
    "kstep_l2l": COMMON | LEARNED | {"inner_steps": (3, 5), "inner_step": ("0.05", "0.1")},
    "grad_l2l_trades": COMMON | LEARNED | BETA,
    "two_step_l2l_trades": COMMON | LEARNED | BETA,
    "grad_l2l_interp": COMMON | INTERP,
    "two_step_l2l_interp": COMMON | INTERP,
    "rnn_adv": COMMON | INNER | RNN,
    "rnn_trades": COMMON | RNN | BETA,
    "trades": COMMON | BETA | {"inner_steps": (5, 7, 10), "inner_step": ("0.025", "0.05", "0.07")},
    "pgd2": COMMON | INNER | {"inner_step": ("0.5eps", "0.75eps", "1eps")},
    "pgd10": COMMON | INNER | {"inner_step": ("0.125eps", "0.25eps", "0.35eps")},
    "apgd10": COMMON | INNER | {"attacker_start": ("zero", "uniform")},
    "fast_at": COMMON | INNER | {"inner_step": ("0.75eps", "1eps", "1.25eps")},
    "n_fgsm": COMMON | INNER | {"noise": (0.5, 1.0, 2.0), "inner_step": ("0.75eps", "1eps")},
    "grad_align": COMMON | INNER | {"ga_lambda": (0.02, 0.2, 0.6, 2.0)},
    "fast_bat": COMMON
    | INNER
    | {
        "bat_point": ("ns_pgd", "pgd", "random"),
        "bat_step": ("1", "5", "25"),
        "bat_lambda": (0.0, 1.0, 10.0),
    },
}
"""What a trial draws from; where the network and its inputs are learned, also how."""


def space_of(method: str, plugins: Plugins) -> Mapping[str, Sequence[Any]]:
    """What the trials of a method draw from."""
    if split(method) is None:
        if method not in SPACES:
            raise InputError(f"--method={method} has no search space; {', '.join(SPACES)} have")
        return SPACES[method]
    own: dict[str, Sequence[Any]] = {}
    for setting in settings_of(plugins.find("method", method, {})):
        if isinstance(setting.kind, tuple):
            own[setting.name] = setting.kind
        elif setting.kind is bool:
            own[setting.name] = (False, True)
        elif setting.kind is float and setting.default:
            tried = [factor * setting.default for factor in (0.5, 1.0, 2.0)]
            own[setting.name] = [v for v in tried if setting.allows(v)]
    return COMMON | own


def draw(space: Mapping[str, Sequence[Any]], trial: int, seed: int) -> dict[str, Any]:
    """The settings of one trial: independent draws from the space."""
    rng = np.random.default_rng((seed, trial))
    return {name: words[int(rng.integers(len(words)))] for name, words in space.items()}


def try_once(config: Config, data: Dataset, seed: int) -> Run:
    """A run in memory, validated about 15 times: its best epoch, of theta or of its average."""
    from l2ljax.runs.from_config import game_of
    from l2ljax.runs.train import fit

    if not len(data.x_val):
        raise InputError("--val_size=0 holds out no validation images to choose by")
    every = max(1, config["epochs"] // 15)
    how = {"validate_every": every, "diagnose": 0, "log_every": 0, "final_attacks": ""}
    run = fit(game_of(config, data), epochs=config["epochs"], seed=seed, **how)
    score, best = run.game.method.selects, run.notes["best"]
    return run.at(max(best, key=lambda which: best[which][score]))


def search(given: dict[str, Any]) -> int:
    """Trials until there are enough of them."""
    import jax

    from l2ljax.machine import prepare
    from l2ljax.runs.run import load_data

    options = defaults(FLAGS) | given
    plugins, method = Plugins(files_of(options)), options["method"]
    method = plugins.take(method)
    space = space_of(method, plugins)
    prepare("user")
    out = pathlib.Path(options["out"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror}") from None
    path = out / f"{method.rpartition(':')[2]}.jsonl"
    done = path.read_text().splitlines() if path.exists() else []
    words = {"dataset": options["dataset"], "method": method}
    data = load_data(resolve(words, plugins), options["data_dir"])
    for trial in range(len(done), options["trials"]):
        flags = draw(space, trial, options["seed"])
        run = try_once(resolve(words | flags, plugins), data, options["seed"])
        best = run.notes["best"][run.which]
        found = {
            "robust": best[run.game.method.selects],
            "epoch": best["epoch"],
            "seconds": run.notes["seconds"],
        }
        jax.clear_caches()  # a trial's programs are its own, and a process may map only so many
        with path.open("a") as file:
            file.write(json.dumps({"trial": trial, "flags": flags, **found}) + "\n")
        print(f"{method} {trial}: {100 * found['robust']:.1f} % {found['seconds']:.1f} s {flags}")
    return 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("search.py", __doc__, FLAGS, search, argv)
