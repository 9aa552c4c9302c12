"""Bad input gets one clear line, exit code 2, and nothing half-written."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from l2ljax.commands import evaluate, train

ROOT = pathlib.Path(__file__).parent.parent


def command(script, *flags):
    path = ROOT / "experiments" / f"{script}.py"
    done = subprocess.run(
        [sys.executable, str(path), *flags], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("train", ["--method=grad_12l"], ["unknown method 'grad_12l'", "'grad_l2l'", "pgm"]),
        ("train", ["--eps=8/0"], ["8/0"]),
        ("train", ["--batch_size=5000"], ["--batch_size=5000", "1097"]),
        ("evaluate", ["--workdir=no_such_run"], ["no_such_run", "config.json"]),
        ("evaluate", ["--workdir=x", "--attacks=pgm1O"], ["unknown attack 'pgm1O'", "pgm10"]),
        ("evaluate", ["--wokdir=x"], ["unknown flag 'wokdir'", "workdir"]),
        ("export", ["--workdir=no_such_run", "--out=there"], ["no_such_run", "config.json"]),
        ("export", ["--workdir=x", "--which=bst", "--out=there"], ["'bst'", "'best'"]),
        ("export", ["--out"], ["out"]),
    ],
)
def test_the_real_command_says_one_line(script, flags, words, tmp_path):
    code, said = command(script, *flags)
    assert code == 2 and len(said.splitlines()) == 1, said
    for word in words:
        assert word in said


def arrays(**changes):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    y = (np.arange(40) % 4).astype(np.int64)
    return {"x_train": x, "y_train": y, "x_test": x[:12], "y_test": y[:12]} | changes


def nan_pixels():
    x = np.full((40, 8, 8, 1), 0.5, np.float32)
    x[3, 2, 1] = np.nan
    return x


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--dataset=digit"], ["unknown dataset", "'digits'", "cifar10", "npz:PATH"]),
        (["--attacker=slin"], ["'slin'", "'slim'", "wide"]),
        (["--recipe=quik"], ["'quik'", "'quick'", "l2l_v1"]),
        (["--model=wrn-11-2"], ["wrn-11-2", "10"]),
        (["--model=resnet19"], ["resnet19", "resnet18"]),
        (["--final_attacks=clean,fgsn"], ["'fgsn'", "fgsm"]),
        (["--eps=0"], ["--eps=0"]),
        (["--eps=-0.1"], ["--eps=-0.1"]),
        (["--eps=8"], ["--eps=8", "8/255"]),
        (["--eps=nan"], ["nan"]),
        (["--eps=eight"], ["eight"]),
        (["--epochs=0"], ["--epochs=0"]),
        (["--epochs=many"], ["many"]),
        (["--seeds=a"], ["--seeds=a"]),
        (["--method=multistep_l2l", "--inner_steps=0"], ["--inner_steps=0"]),
        (["--inner_steps=3"], ["--inner_steps", "grad_l2l", "multistep_l2l"]),
        (["--method=plain", "--attacker_start=zero"], ["--attacker_start", "plain"]),
        (["--attack_loss=kl", "--attacker_start=zero"], ["attack_loss 'kl'", "gaussian"]),
        (["--phi_steps=2"], ["--phi_steps", "alternating"]),
        (["--label_smoothing=1"], ["--label_smoothing=1"]),
        (["--init_from=nowhere"], ["nowhere", "no checkpoint"]),
        (["--recipe=l2l_v1"], ["--init_from", "--method=plain"]),
        (["--dropout=0.1", "--model=mlp"], ["mlp", "dropout"]),
        (["word"], ["word", "--name=value"]),
        (["--val_size=-1"], ["val_size=-1", "between 0 and 1296"]),
        (["--dataset=cifar10", "--nodownload", "--data_dir={tmp}"], ["cifar-10-binary.tar.gz"]),
        (["--dataset=npz:{tmp}/none.npz"], ["none.npz"]),
    ],
)
def test_train_refuses(flags, words, tmp_path, capsys):
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    assert train.main([*flags, f"--workdir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"y_test": None}, ["y_test"]),
        ({"x_train": np.zeros((40, 8, 8, 1), complex)}, ["x_train", "complex"]),
        ({"x_train": np.zeros((40, 8), np.uint8)}, ["x_train", "shape"]),
        ({"y_train": np.full(40, -1)}, ["y_train", "-1"]),
        ({"x_train": nan_pixels()}, ["x_train", "NaN"]),
    ],
)
def test_train_refuses_npz(changes, words, tmp_path, capsys):
    content = {name: a for name, a in arrays(**changes).items() if a is not None}
    np.savez(tmp_path / "own.npz", **content)
    flags = [f"--dataset=npz:{tmp_path / 'own.npz'}", "--recipe=quick", "--batch_size=16"]
    assert train.main([*flags, f"--workdir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word.lower() in said.lower()
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert train.main([f"--workdir={tmp_path}"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workdir_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main([f"--workdir={tmp_path / 'file' / 'run'}"]) == 2
    said = capsys.readouterr().err.strip()
    assert "cannot be written" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ["--workdir"]),
        (["--workdir={tmp}", "--batch_size=0"], ["--batch_size=0"]),
        (["--workdir={tmp}", "--num_examples=-1"], ["--num_examples=-1"]),
        (["--workdir={tmp}"], ["is no run"]),
    ],
)
def test_evaluate_refuses(flags, words, tmp_path, capsys):
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    assert evaluate.main(flags) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word in said
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_flag(capsys):
    for script in (train, evaluate):
        assert script.main(["--help"]) == 0
        out = capsys.readouterr().out
        assert all(f"--{flag.name}:" in out for flag in script.FLAGS)
