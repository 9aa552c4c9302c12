"""Write a run's networks as plain arrays: neither orbax nor JAX nor l2ljax is needed to read them.

    python experiments/export.py --workdir=runs/digits-grad_l2l-0 --which=best --out=FOLDER

FOLDER gets theta.npz and theta.safetensors (the classifier), phi.npz and phi.safetensors (the
attacker, if the method learns one) and meta.json (configuration, normalisation, class names,
layout, fingerprints, versions). Arrays have flat names: params/stem/kernel, batch_stats/bn/mean.
Images are normalised inside the network, so mean and std from meta.json are part of the classifier.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from l2ljax.checkpoint import fingerprint
from l2ljax.checkpoint.reader import flatten
from l2ljax.commands.flags import PLUGINS, files_of, run_main
from l2ljax.errors import InputError
from l2ljax.machine import describe
from l2ljax.runs.config import write_json
from l2ljax.runs.run import WHICH, facts_of, load_run
from l2ljax.settings import Setting, defaults

FLAGS = [
    Setting("workdir", str, "the run to export"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("out", str, "the folder to write; WORKDIR/export-WHICH"),
    Setting("overwrite", bool, "replace an export that is already there", False),
    PLUGINS,
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
    run = load_run(workdir, which, plugins=files_of(options))
    players = {"theta": (run.theta, run.theta_stats)}
    if run.game.method.learns:
        players["phi"] = (run.state.phi, run.state.phi_stats)
    files: dict[str, Any] = {}
    for player, (parameters, stats) in players.items():
        tree = flatten({"params": parameters, **stats})
        arrays = {name: np.asarray(leaf, order="C") for name, leaf in tree.items()}
        files |= {f"{player}.npz": arrays, f"{player}.safetensors": arrays}
    files["meta.json"] = {
        "which": which,
        "step": run.step,
        "dataset": facts_of(run.game.data),
        "layout": LAYOUT,
        "sha256": {player: fingerprint(tree) for player, tree in players.items()},
        "config": run.config,
        "made_with": describe(),
    }
    try:
        write(out, files)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror or error}") from None
    print(f"{workdir}, {which} checkpoint (step {run.step}), written to")
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
