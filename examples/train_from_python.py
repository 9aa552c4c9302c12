"""Everything the command `train` does, as a call: same flags, same folder, same resume, same bits.

    python examples/train_from_python.py

The second call of `train` would read the finished run, and one that was interrupted is gone on
with. `load` opens a run without its data set.
"""

import pathlib

import jax

import l2ljax
from l2ljax.data import load, scale


def main(workdir: str | pathlib.Path = "runs/from_python", epochs: int = 3) -> dict[str, float]:
    """Accuracies of a run: of its summary, of its average, and under its own attacker."""
    run = l2ljax.train(
        method="grad_l2l",
        dataset="digits",
        seed=0,
        workdir=workdir,
        # Any other flag of the command is a keyword too. These make a net for a few seconds.
        model="mlp",
        attacker="two_layer",
        attacker_width=0.0625,
        epochs=epochs,
        ema_decay=0.9,
        final_attacks="clean,pgm10",
        callbacks=[lambda end: print(f"epoch {end.epoch}: {end.metrics['val/robust']:.1%}")],
    )
    found = {f"best, {name}": r["accuracy"] for name, r in run.summary["test"]["best"].items()}

    run = l2ljax.load(workdir, which="last_ema")  # also best, last and best_ema
    data = load("digits")
    x, y = scale(data.x_test), data.y_test  # images in [0, 1]
    logits = run.classifier(x)  # in eval mode, ready for any attack
    found["last_ema, clean"] = float((logits.argmax(-1) == y).mean())

    x_adv = run.attacker(jax.random.key(0), run.classifier, x, y, eps=0.2)  # phi, on any classifier
    found["last_ema, phi"] = float((run.classifier(x_adv).argmax(-1) == y).mean())
    return found


if __name__ == "__main__":
    for name, accuracy in main().items():
        print(f"{name}: {accuracy:.1%}")
