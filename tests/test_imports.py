"""What takes long to import is imported where it is needed: not with a script, not in training."""

import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
HEAVY = ("matplotlib", "tensorflow", "tensorflow_datasets", "sklearn", "torch", "gymnax")


def imported(code: str) -> set[str]:
    """Packages that `python -X importtime` shows for this code, run in the repository."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 100
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_the_scripts_import_nothing_heavy():
    found = imported(
        "from l2ljax.commands import train, evaluate, compare, search, transfer, export, gail"
    )
    assert found >= {"numpy", "jax", "l2ljax"}
    assert not found & {*HEAVY, "tensorboardX"}


def test_the_package_imports_neither_files_nor_networks():
    found = imported("import l2ljax, l2ljax.attacks, l2ljax.data")
    assert not found & {*HEAVY, "tensorboardX", "orbax", "urllib3", "requests"}


def test_before_its_first_step_training_has_drawn_nothing_and_opened_no_tfds(tmp_path):
    x, y = np.arange(64 * 64, dtype=np.uint8).reshape(64, 8, 8, 1), np.arange(64) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    flags = [f"--dataset=npz:{tmp_path / 'own.npz'}", f"--workdir={tmp_path / 'run'}"]
    flags += ["--method=plain", "--model=mlp", "--epochs=1", "--batch_size=8", "--notensorboard"]
    code = f"""
from l2ljax.commands import train
from l2ljax.runs import feed

def first(self, *arguments):
    print("a first step")
    raise SystemExit(0)

feed.Feed.epoch = first
train.main({flags})
raise SystemExit("no step was taken")
"""
    assert not imported(code) & set(HEAVY)
