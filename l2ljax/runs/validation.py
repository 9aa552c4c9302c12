"""What is measured after every epoch: accuracies on the validation split, and the diagnostics.

Without a validation split (--val_size=0) there are no accuracies, and the diagnostics are those on
training images. Batches are cut over the devices of this process; no result depends on that.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.attacks import parse
from l2ljax.ball import scale
from l2ljax.evaluation.accuracy import robust
from l2ljax.parallel import agree
from l2ljax.runs.game import Game
from l2ljax.types import State, stream

TRAINING_IMAGES = 1000
"""On which clean accuracy in training is measured where no validation split says how many."""


class Validation:
    """The measurements of one run; its draws are the same in every epoch."""

    def __init__(self, game: Game, seed: int, batch_size: int, diagnosed: int) -> None:
        """Of so many images a batch, and so many on which the attacker is looked at."""
        self.game, self.data, self.layout = game, game.data, game.layout
        self.batch_size, self.diagnosed = batch_size, diagnosed
        self.rng = jax.random.key(seed)

    def measure(self, state: State) -> dict[str, float]:
        """Accuracies and diagnostics, as the first process found them: decisions hang on them."""
        accuracies = self.validate(state) if len(self.data.x_val) else {}
        return agree(accuracies | self.diagnose(state))

    def clean_accuracy(self, state: State) -> float:
        """On the first training images: a method that never sees a clean image reports it too."""
        n = len(self.data.x_val) or TRAINING_IMAGES
        f = self.game.frozen(*self.layout.put_for_evaluation((state.theta, state.theta_stats)))
        x, y = self.data.x_train[:n], self.data.y_train[:n]
        return float(self.stood(f, x, y, "clean").mean())

    def stood(self, f: Callable, x: np.ndarray, y: np.ndarray, attack: str) -> np.ndarray:
        """Which of the images withstand the attack."""
        return robust(
            stream(self.rng, "validation"),
            f,
            x,
            y,
            parse(attack),
            eps=self.game.eps,
            batch_size=min(self.batch_size, len(x)),
            layout=self.layout,
        )

    def validate(self, state: State) -> dict[str, float]:
        """On the validation split: clean, worst-case PGM-10 and, of theta itself, FGSM accuracy."""
        values = {}
        own, average = (state.theta, state.theta_stats), (state.ema, state.ema_stats)
        for suffix, weights in (("", own), ("_ema", average)):
            if not weights[0]:
                continue
            f = self.game.frozen(*self.layout.put_for_evaluation(weights))
            attacks = {"clean": "clean", "robust": "selection"}
            if not suffix and self.game.guarded:
                attacks["fgsm"] = "fgsm"
            for name, attack in attacks.items():
                stood = self.stood(f, self.data.x_val, self.data.y_val, attack)
                values[f"val/{name}{suffix}"] = float(stood.mean())
        return values

    def diagnose(self, state: State) -> dict[str, float]:
        """What the attacker does, on the first validation images; without any, training images."""
        data = self.data
        x, y = (data.x_val, data.y_val) if len(data.x_val) else (data.x_train, data.y_train)
        n = min(self.diagnosed, len(x))
        if not self.game.measures or n == 0:
            return {}
        x, y = scale(jnp.asarray(x[:n])), jnp.asarray(y[:n])
        key, values = stream(self.rng, "diagnostics"), {}
        for measure in self.game.measures:
            values |= {k: float(v) for k, v in measure(key, state, x, y, self.game.eps).items()}
        return values


def brief(values: Mapping[str, float]) -> dict[str, str]:
    """What the progress bar shows of a step or an epoch."""
    shown = {"loss": f"{values['theta/loss']:.3f}"}
    for word, name in (
        ("clean", "theta/clean_accuracy"),
        ("robust", "theta/robust_accuracy"),
        ("val clean", "val/clean"),
        ("val robust", "val/robust"),
    ):
        if name in values:
            shown[word] = f"{100 * values[name]:.1f} %"
    return shown
