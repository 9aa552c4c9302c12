"""Random search over a method's recipe on digits, chosen on the validation split alone.

    python experiments/search.py --method=grad_l2l --trials=30 --out=runs/search

Every method gets the same number of trials from a space declared here, before anything was run.
Trials are lines of OUT/METHOD.jsonl; the same command again goes on where it stopped.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from l2ljax.attacks import parse
from l2ljax.commands.flags import run_main
from l2ljax.data import Dataset, load
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import robust
from l2ljax.machine import prepare
from l2ljax.runs import settings as configuration
from l2ljax.runs.feed import Feed
from l2ljax.runs.game import Game, make_game
from l2ljax.settings import Setting, defaults
from l2ljax.types import State

FLAGS = [
    Setting("method", str, "the method to search a recipe for", "grad_l2l"),
    Setting("trials", int, "how many recipes are tried", 30),
    Setting("out", str, "folder of the trials' records", "runs/search"),
    Setting("seed", int, "seed of the draws and of the training runs", 1000),
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


def draw(method: str, trial: int, seed: int) -> dict[str, Any]:
    """The flags of one trial: independent draws from the method's space."""
    rng = np.random.default_rng((seed, trial))
    return {name: words[rng.integers(len(words))] for name, words in SPACES[method].items()}


def train_once(
    config: dict[str, Any], data: Dataset, seed: int
) -> tuple[Game, State, dict[str, float]]:
    """A run without files: the state of the best validation epoch, raw or averaged in theta.

    "robust" is its validation accuracy under the attack that selects, for Plain under none.
    """
    if not len(data.x_val):
        raise InputError("--val_size=0 holds out no validation images to choose by")
    game = make_game(config, data)
    batch_size, part_size = game.batch_size, game.part_size
    feed = Feed(data, seed, layout=game.layout, batch_size=batch_size, part_size=part_size)
    state, rng = game.init(seed), jax.random.key(seed)
    best, kept, seconds = {"robust": -1.0}, state, 0.0
    every = max(1, config["epochs"] // 15)
    judge = parse("selection" if game.selects == "robust" else "clean")
    for epoch in range(config["epochs"]):
        if not epoch:
            n, example = next(feed.epoch(0, 0))
            game.program(n, state, *example)  # compiled before the clock runs
        began = time.perf_counter()
        for n, arguments in feed.epoch(epoch, 0):
            state, _ = game.program(n, state, *arguments)(state, *arguments)
        jax.block_until_ready(state)
        seconds += time.perf_counter() - began
        if (epoch + 1) % every:
            continue
        for theta, stats in ((state.theta, state.theta_stats), (state.ema, state.ema_stats)):
            if not theta:
                continue
            f = game.frozen(theta, stats)
            stood = robust(
                jax.random.fold_in(rng, 1),
                f,
                data.x_val,
                data.y_val,
                judge,
                eps=game.eps,
                batch_size=len(data.x_val),
            )
            if stood.mean() > best["robust"]:
                best = {"robust": float(stood.mean()), "epoch": epoch + 1}
                kept = jax.tree.map(np.array, state._replace(theta=theta, theta_stats=stats))
    return game, kept, best | {"seconds": seconds}


def search(given: dict[str, Any]) -> int:
    """Trials until there are enough of them."""
    options = defaults(FLAGS) | given
    method = options["method"]
    if method not in SPACES:
        raise InputError(f"--method={method} has no search space; {', '.join(SPACES)} have")
    for name, least in (("trials", 1), ("seed", 0)):
        if options[name] < least:
            raise InputError(f"--{name}={options[name]} must be {least} or above")
    prepare("user")
    out = pathlib.Path(options["out"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror}") from None
    path = out / f"{method}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    data = load("digits")
    for trial in range(len(done), options["trials"]):
        flags = draw(method, trial, options["seed"])
        config = configuration.resolve({"dataset": "digits", "method": method, **flags})
        _, _, best = train_once(config, data, options["seed"])
        jax.clear_caches()  # as compare.py does after a row
        with path.open("a") as file:
            file.write(json.dumps({"trial": trial, "flags": flags, **best}) + "\n")
        print(f"{method} {trial}: {100 * best['robust']:.1f} % {best['seconds']:.1f} s {flags}")
    return 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("search.py", __doc__, FLAGS, search, argv)
