"""Write a run's networks as plain arrays: neither orbax nor JAX nor l2ljax is needed to read them.

    python experiments/export.py --workdir=runs/digits-grad_l2l-0 --which=best --out=FOLDER

FOLDER gets theta.npz and theta.safetensors (the classifier), phi.npz and phi.safetensors (the
attacker, if the method learns one) and meta.json (configuration, normalisation, class names,
layout, fingerprints, versions). Arrays have flat names: params/stem/kernel, batch_stats/bn/mean.
The one surprising thing: images are normalised inside the network, so mean and std from meta.json
are part of the classifier.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from l2ljax.checkpoint import fingerprint
from l2ljax.checkpoint.manifest import flatten
from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.machine import cache_folder, describe
from l2ljax.runs.saved import WHICH, open_run, restore
from l2ljax.runs.workdir import write_json
from l2ljax.settings import Setting, defaults

FLAGS = [
    Setting("workdir", str, "the run to export"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("out", str, "the folder to write; WORKDIR/export-WHICH"),
    Setting("overwrite", bool, "replace an export that is already there", False),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
]

FILES = ("theta.npz", "theta.safetensors", "phi.npz", "phi.safetensors", "meta.json")

LAYOUT = {
    "images": "NHWC, float32 in [0, 1]; the classifier itself computes (x - mean) / std",
    "convolution kernels": "HWIO: height, width, in, out",
    "dense kernels": "IO: x @ kernel + bias",
    "batch_stats": "running mean and biased variance per channel, as evaluation uses them",
    "phi": "input: the image, then the loss gradient if the method has one; output times eps",
}
"""What a reader in another framework must know of the arrays."""


def export(given: dict[str, Any]) -> int:
    """Restore, write, and say how to read it."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise InputError("--workdir=FOLDER of a run is needed")
    workdir, which = pathlib.Path(options["workdir"]), options["which"]
    out = pathlib.Path(options["out"] or workdir / f"export-{which}")
    there = [name for name in FILES if (out / name).exists()]
    if there and not options["overwrite"]:
        raise InputError(f"{out} holds {there[0]} already: add --overwrite, or give another --out")
    config, data, game = open_run(workdir, options["data_dir"] or str(cache_folder("data")))
    saved = restore(workdir, which, config, data, game)
    players = {"theta": (saved.theta, saved.theta_stats)}
    if game.method.learns:
        players["phi"] = (saved.state.phi, saved.state.phi_stats)
    files: dict[str, Any] = {}
    for player, (parameters, stats) in players.items():
        tree = flatten({"params": parameters, **stats})
        arrays = {name: np.asarray(leaf, order="C") for name, leaf in tree.items()}
        files |= {f"{player}.npz": arrays, f"{player}.safetensors": arrays}
    files["meta.json"] = {
        "which": which,
        "step": saved.step,
        "dataset": {
            "name": data.name,
            "image_shape": data.x_train.shape[1:],
            "mean": data.mean,
            "std": data.std,
            "num_classes": data.num_classes,
            "class_names": data.class_names,
        },
        "layout": LAYOUT,
        "sha256": {player: fingerprint(tree) for player, tree in players.items()},
        "config": config,
        "made_with": describe(),
    }
    try:
        write(out, files)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror or error}") from None
    print(f"{workdir}, {which} checkpoint (step {saved.step}), written to")
    for name in files:
        print(f"  {out / name}  {(out / name).stat().st_size:,} bytes")
    print("to read it:")
    print("  import numpy as np")
    print(f"  theta = dict(np.load({str(out / 'theta.npz')!r}))")
    print("  print({name: array.shape for name, array in theta.items()})")
    return 0


def write(out: pathlib.Path, files: dict[str, Any]) -> None:
    """All files in a hidden folder of `out` first, then moved, meta.json last.

    What an older export left under another name of FILES is removed.
    """
    created = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    hidden = out / f".partial-{os.getpid()}"
    try:
        hidden.mkdir()
        for name, content in files.items():
            _write_file(hidden / name, content)
        for name in ("meta.json", *(name for name in FILES if name not in files)):
            (out / name).unlink(missing_ok=True)
        for name in files:
            os.replace(hidden / name, out / name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if created and not any(out.iterdir()):
            out.rmdir()


def _write_file(path: pathlib.Path, content: dict[str, Any]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".safetensors":
        # save_file would hide what the system says of a full disk in an error of its own.
        path.write_bytes(save(content))
    else:
        write_json(path, content)


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("export.py", __doc__, FLAGS, export, argv)
