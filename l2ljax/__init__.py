"""Learning-to-learn adversarial training in JAX/Flax: the public names, nothing else.

    import l2ljax

    run = l2ljax.train(method="grad_l2l", dataset="digits", seed=0, workdir="runs/a")
    run = l2ljax.load("runs/a", which="best_ema")
    table = l2ljax.evaluate(run.classifier, x, y, eps=8 / 255, attacks="clean,pgm10")

    game = l2ljax.make_game(classifier, method, data, eps=8 / 255, ...)     # objects of one's own
    run = l2ljax.fit(game, epochs=30, seed=0)

The step and its parts are here too, for those who write a loop of their own: `make_method`,
`make_step`, `init_state`, `functional`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from l2ljax import attacks, losses, models, schedules, solvers
from l2ljax.apply import functional, initialise
from l2ljax.attacker_input import image_and_gradient, input_gradient, normalise
from l2ljax.bilevel import init_state, make_step
from l2ljax.methods import METHODS, make_method
from l2ljax.types import Inner, Method, Problem, Solver, State

if TYPE_CHECKING:
    from l2ljax.runs.game import Game
    from l2ljax.runs.run import Run

__all__ = [
    "METHODS",
    "Inner",
    "Method",
    "Problem",
    "Solver",
    "State",
    "attacks",
    "evaluate",
    "fit",
    "functional",
    "image_and_gradient",
    "init_state",
    "initialise",
    "input_gradient",
    "load",
    "losses",
    "make_game",
    "make_method",
    "make_step",
    "models",
    "normalise",
    "schedules",
    "solvers",
    "train",
]


def train(
    *,
    seed: int = 0,
    workdir: Any = None,
    callbacks: Sequence[Callable] = (),
    plugins: Iterable = (),
    progress: bool = False,
    **settings: Any,
) -> "Run":
    """Everything the command `train` does, as a call: its flags are the keywords.

    It writes the same folder, resumes as the command does, and returns the finished run. See
    `l2ljax.runs.train.train`.
    """
    from l2ljax.runs import train as runs

    return runs.train(
        seed=seed,
        workdir=workdir,
        callbacks=callbacks,
        plugins=plugins,
        progress=progress,
        **settings,
    )


def load(workdir: Any, which: str = "best", *, plugins: Iterable = (), game: Any = None) -> "Run":
    """A run from its folder: which of its checkpoints is best, last, best_ema or last_ema.

    Neither the data set nor the machine it was trained on is needed. A file of the user's own that
    the run was made with is executed only if it is given in `plugins`.
    """
    from l2ljax.runs.run import load_run

    return load_run(workdir, which, plugins=plugins, game=game)


def make_game(classifier: Any, method: Method, data: Any, **how: Any) -> "Game":
    """The game between one's own classifier and the attacker of a method, for `fit`.

    See `l2ljax.runs.game.make_game` for the keywords: eps, tx_theta, tx_phi, batch_size and more.
    """
    from l2ljax.runs import game

    return game.make_game(classifier, method, data, **how)


def fit(game: Any, *, epochs: int, seed: int = 0, workdir: Any = None, **how: Any) -> "Run":
    """Play a game for so many epochs, in a folder or, without one, in memory.

    See `l2ljax.runs.train.fit` for the keywords: callbacks, final_attacks, progress and more.
    """
    from l2ljax.runs import train as runs

    return runs.fit(game, epochs=epochs, seed=seed, workdir=workdir, **how)


def evaluate(f: Callable, x: Any, y: Any, *, eps: float, **how: Any) -> Any:
    """Attacks on any x -> logits over a set of images: a table that prints itself.

    See `l2ljax.evaluation.evaluate` for the keywords: attacks, norm, batch_size, seed and more.
    """
    from l2ljax import evaluation

    return evaluation.evaluate(f, x, y, eps=eps, **how)
