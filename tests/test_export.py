"""Exports: readable with NumPy alone, equal to the checkpoint, whole or not there."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from l2ljax.apply import functional
from l2ljax.checkpoint.reader import flatten, nest
from l2ljax.commands import export, train
from l2ljax.data import load
from l2ljax.runs.run import load_run

SMALL = [
    "--model=mlp",
    "--attacker=slim",
    "--attacker_width=0.0625",
    "--batch_size=512",
    "--epochs=1",
    "--diagnose=0",
    "--final_attacks=clean",
    "--noplots",
    "--notensorboard",
]
ALL = {"theta.npz", "theta.safetensors", "phi.npz", "phi.safetensors", "meta.json"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("learned") / "run"
    assert train.main([*SMALL, "--ema_decay=0.5", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain") / "run"
    assert train.main([*SMALL, "--method=plain", f"--workdir={workdir}"]) == 0
    return workdir


def run(workdir, out, *flags):
    return export.main([f"--workdir={workdir}", f"--out={out}", *flags])


def names(folder):
    return {path.name for path in folder.iterdir()}


def restored(workdir, which):
    return load_run(workdir, which)


@pytest.mark.parametrize("which", ["best", "last", "last_ema"])
def test_arrays_are_those_of_the_checkpoint_bit_for_bit(learned, tmp_path, which):
    assert run(learned, tmp_path / "out", f"--which={which}") == 0
    assert names(tmp_path / "out") == ALL
    saved = restored(learned, which)
    for player, parameters, stats in (
        ("theta", saved.theta, saved.state.theta_stats),
        ("phi", saved.state.phi, saved.state.phi_stats),
    ):
        wanted = flatten({"params": parameters, **stats})
        for found in (
            dict(np.load(tmp_path / "out" / f"{player}.npz")),
            load_file(tmp_path / "out" / f"{player}.safetensors"),
        ):
            assert found.keys() == wanted.keys()
            for name, array in found.items():
                assert array.shape == wanted[name].shape and array.dtype == wanted[name].dtype
                assert array.tobytes() == np.asarray(wanted[name]).tobytes(), name


def test_logits_from_the_files_alone_are_those_of_the_checkpoint(learned, tmp_path):
    assert run(learned, tmp_path / "out") == 0
    theta = np.load(tmp_path / "out" / "theta.npz")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    saved = restored(learned, "best")
    x = load("digits").x_test[:32].astype(np.float32) / 255
    h = ((x - meta["dataset"]["mean"]) / meta["dataset"]["std"]).reshape(len(x), -1)
    for layer in ("fc1", "fc2"):
        h = np.maximum(h @ theta[f"params/{layer}/kernel"] + theta[f"params/{layer}/bias"], 0)
    logits = h @ theta["params/head/kernel"] + theta["params/head/bias"]
    expected, _ = saved.game.apply(saved.theta, saved.state.theta_stats, x, "eval")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_attacker_from_the_files_answers_as_the_checkpoints(learned, tmp_path):
    from l2ljax.models import make_attacker

    assert run(learned, tmp_path / "out") == 0
    tree = nest(load_file(tmp_path / "out" / "phi.safetensors"))
    assert {"params", "batch_stats"} == tree.keys()
    saved = restored(learned, "best")
    g = functional(make_attacker("slim", 1, width=1 / 16))
    a = jax.random.uniform(jax.random.key(0), (4, 8, 8, 2))
    found, _ = g(tree.pop("params"), tree, a, "eval")
    expected, _ = g(saved.state.phi, saved.state.phi_stats, a, "eval")
    np.testing.assert_array_equal(found, expected)


def test_meta_says_what_a_reader_needs(learned, tmp_path):
    assert run(learned, tmp_path / "out", "--which=last") == 0
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    summary = json.loads((learned / "summary.json").read_text())
    assert meta["sha256"]["theta"] == summary["theta_sha256"]
    assert meta["sha256"]["phi"] == summary["phi_sha256"]
    assert (meta["which"], meta["step"]) == ("last", summary["steps"]["last"])
    assert meta["config"] == json.loads((learned / "config.json").read_text())
    assert meta["dataset"]["class_names"] == [str(digit) for digit in range(10)]
    assert meta["dataset"]["image_shape"] == [8, 8, 1]
    assert "HWIO" in meta["layout"]["convolution kernels"]
    assert meta["made_with"]["jax"] == jax.__version__


def test_what_it_prints_reads_the_export_without_jax(learned, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(learned, out) == 0
    said = capsys.readouterr().out
    assert all(str(out / name) in said for name in ALL)
    snippet = "\n".join(line.strip() for line in said.splitlines()[-3:])
    script = f"{snippet}\nimport sys; assert not {{'jax', 'orbax', 'l2ljax'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'params/head/bias': (10,)" in done.stdout


def test_a_method_without_attacker_has_no_phi(plain, tmp_path):
    assert run(plain, tmp_path / "out") == 0
    assert names(tmp_path / "out") == {name for name in ALL if not name.startswith("phi")}


def test_an_export_is_replaced_only_when_asked(learned, plain, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(learned, out) == 0
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(plain, out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(plain, out, "--overwrite") == 0
    assert names(out) == {"theta.npz", "theta.safetensors", "meta.json", "notes.txt"}
    assert json.loads((out / "meta.json").read_text())["config"]["method"] == "plain"


def test_a_failed_write_leaves_nothing_new_and_the_old_export_whole(
    learned, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert run(learned, out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    capsys.readouterr()
    assert run(learned, out, "--which=last", "--overwrite") == 2
    assert run(learned, tmp_path / "new") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("No space left on device" in line for line in lines)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--workdir=FOLDER of a run is needed"),
        (["--workdir=no_such_run"], "no_such_run is no run"),
        (["--workdir={learned}", "--which=bets"], "did you mean 'best'"),
        (["--workdir={plain}", "--which=best_ema"], "kept no average"),
        (["--workdir={learned}", "--out=/proc/none/out"], "/proc/none/out cannot be written"),
        (["--workdir={learned}", "--out={learned}/config.json"], "config.json cannot be written"),
        (["--workdir={empty}"], "it has no data.json"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(flags, words, learned, plain, tmp_path, capsys):
    (tmp_path / "config.json").write_text((plain / "config.json").read_text())
    folders = {"learned": learned, "plain": plain, "empty": tmp_path}
    assert export.main([flag.format(**folders) for flag in flags]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert names(tmp_path) == {"config.json"}
