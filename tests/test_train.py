"""The training script: what it writes, and that a resumed run is the uninterrupted one."""

import json
import os
import shutil
import signal

import jax
import pytest

from l2ljax.checkpoint import Checkpoints, restore_any
from l2ljax.commands import train
from l2ljax.parallel import Layout
from l2ljax.record import read
from l2ljax.runs import loop
from processes import ROOT, launch, timeless, wait_for_checkpoint

SMALL = [
    f"--model={ROOT / 'examples' / 'own_net.py'}:Net",  # small, and it has running statistics
    "--attacker=two_layer",
    "--attacker_width=0.03125",
    "--batch_size=128",
    "--train_size=512",
    "--val_size=50",
    "--eval_batch=50",
    "--diagnose=16",
    "--final_attacks=clean,fgsm",
    "--noplots",
    "--ema_decay=0.9",
    "--log_every=3",
]
PLAIN = ["--method=plain", "--model=mlp", "--batch_size=64", "--epochs=2", "--noplots"]
PLAIN += ["--train_size=576", "--val_size=50", "--eval_batch=50", "--final_attacks=clean"]
PLAIN += ["--notensorboard", "--log_every=1", "--augment=crop"]
CLOCKS = ("time", "seconds/train", "seconds/validation")


def run(workdir, *flags, epochs=3):
    return train.main([*SMALL, f"--workdir={workdir}", f"--epochs={epochs}", *flags])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run(workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """By Ctrl-C within the second epoch; to be copied."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 7)
        assert run(workdir) == 128 + signal.SIGINT
    return workdir


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The folder of one command's runs with two seeds, and the programs that it compiled."""
    compiled, compile_step = [], Layout.compile

    def counted(self, *body_and_arguments):
        compiled.append(compile_step(self, *body_and_arguments))
        return compiled[-1]

    folder = tmp_path_factory.mktemp("seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "compile", counted)
        assert run(folder, "--seeds=0,1") == 0
    return folder, compiled


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]


def fingerprints(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    asked = ("made_with", "select_check", "select_check_images")
    return timeless({k: v for k, v in summary.items() if k not in asked})


def assert_same_run(a, b):
    assert metrics(a) == metrics(b)
    assert fingerprints(a) == fingerprints(b)
    for kind in ("last", "best", "best_ema"):
        one, two = restore_any(a, kind=kind), restore_any(b, kind=kind)
        assert one[2] == two[2]
        assert _bytes(one[0]) == _bytes(two[0]), kind


def _bytes(tree):
    if isinstance(tree, dict):
        return {name: _bytes(child) for name, child in tree.items()}
    return tree.tobytes()


def test_a_run_writes_everything_it_promises(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"config.json", "metrics.jsonl", "summary.json", "checkpoints", "tensorboard"} <= names
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["method"] == "grad_l2l" and config["eps"] == "0.2" and config["seed"] == 0
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert set(summary["test"]) == {"best", "last", "best_ema", "last_ema"}
    for results in summary["test"].values():
        assert set(results) == {"clean", "fgsm"}
        assert all(0 <= entry["accuracy"] <= 1 for entry in results.values())
        assert results["fgsm"]["accuracy"] <= results["clean"]["accuracy"]
    assert len(summary["theta_sha256"]) == len(summary["phi_sha256"]) == 64
    assert summary["made_with"]["jax"] and summary["seconds"]["train"] > 0


def test_every_epoch_is_validated_and_the_attacker_diagnosed(uninterrupted):
    epochs = [line for line in read(uninterrupted / "metrics.jsonl") if "val/clean" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    for line in epochs:
        assert {"val/robust", "val/clean_ema", "val/robust_ema"} <= set(line)
        assert {"theta/loss", "theta/clean_accuracy", "theta/robust_accuracy"} <= set(line)
        assert {"theta/lr", "phi/lr", "theta/grad_norm", "phi/grad_norm"} <= set(line)
        assert len([name for name in line if name.startswith("attacker/")]) == 6
    within = [line for line in read(uninterrupted / "metrics.jsonl") if "val/clean" not in line]
    assert [line["step"] for line in within] == [3, 6, 9]


def test_a_short_run_learns(uninterrupted):
    epochs = [line for line in read(uninterrupted / "metrics.jsonl") if "val/clean" in line]
    assert epochs[-1]["theta/loss"] < epochs[0]["theta/loss"]
    assert max(line["val/clean"] for line in epochs) > 0.4


def test_the_selected_checkpoint_can_be_checked_by_quick_autoattack(
    uninterrupted, tmp_path, capsys
):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    assert run(workdir, "--select_check=16") == 0
    assert "best: of 16 validation images" in capsys.readouterr().out
    checks = json.loads((workdir / "summary.json").read_text())["select_check"]
    assert set(checks) == {"best", "best_ema"}
    for check in checks.values():
        assert 0 <= check["autoattack_quick"] <= 1 and check["images"] == 16
    before = (workdir / "summary.json").stat().st_mtime_ns
    assert run(workdir) == run(workdir, "--select_check=16") == 0
    assert (workdir / "summary.json").stat().st_mtime_ns == before


def test_a_second_call_only_prints(uninterrupted, capsys):
    before = (uninterrupted / "summary.json").stat().st_mtime_ns
    assert run(uninterrupted) == 0
    assert (uninterrupted / "summary.json").stat().st_mtime_ns == before
    assert "theta sha256" in capsys.readouterr().out


def test_the_same_command_gives_the_same_bits(uninterrupted, tmp_path):
    assert run(tmp_path / "again") == 0
    assert_same_run(uninterrupted, tmp_path / "again")


@pytest.mark.parametrize("step", [2, 4])
def test_resume_is_bit_identical(uninterrupted, tmp_path, step):
    """Ctrl-C within an epoch and at the end of one."""
    workdir = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, step)
        assert run(workdir) == 128 + signal.SIGINT
    assert run(workdir) == 0
    assert_same_run(uninterrupted, workdir)


def test_resume_after_some_epochs_is_bit_identical(uninterrupted, stopped, tmp_path):
    workdir = shutil.copytree(stopped, tmp_path / "stopped")
    assert run(workdir) == 0
    assert_same_run(uninterrupted, workdir)


def interrupt_at(monkeypatch, step):
    measured = loop.Loop.measured

    def raise_signal(self, at, *rest):
        measured(self, at, *rest)
        if at == step - 1:  # metrics arrive one step late
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop.Loop, "measured", raise_signal)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    uninterrupted, stopped, tmp_path, capsys
):
    workdir = shutil.copytree(stopped, tmp_path / "damaged")
    newest = max((workdir / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run(workdir) == 0
    said = capsys.readouterr().err
    assert str(newest) in said and "resumed at step" in said
    assert_same_run(uninterrupted, workdir)


def test_with_no_intact_checkpoint_the_run_stops(stopped, tmp_path, capsys):
    workdir = shutil.copytree(stopped, tmp_path / "ruined")
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert run(workdir) == 2
    assert "resumed" not in capsys.readouterr().err


def test_other_flags_are_refused_by_name(uninterrupted, capsys):
    before = metrics(uninterrupted)
    assert run(uninterrupted, "--theta_lr=0.3", "--grad_norm=none") == 2
    said = capsys.readouterr().err
    assert "--theta_lr: 0.4 -> 0.3" in said and "--grad_norm: sign -> none" in said
    assert metrics(uninterrupted) == before


def test_a_diverging_run_stops_and_says_where(tmp_path, capsys):
    flags = [*PLAIN, f"--workdir={tmp_path / 'wild'}", "--theta_lr=1e30"]
    assert train.main([*flags, "--theta_schedule=constant"]) == 2
    said = capsys.readouterr().err
    assert "at step" in said and "--theta_lr" in said and "saved" in said


def test_init_from_takes_theta_and_refuses_other_architectures(uninterrupted, tmp_path, capsys):
    start = f"--init_from={uninterrupted}"
    assert run(tmp_path / "warm", start) == 0
    first = read(tmp_path / "warm" / "metrics.jsonl")[0]
    assert first["theta/loss"] < read(uninterrupted / "metrics.jsonl")[0]["theta/loss"]
    assert run(tmp_path / "other", start, "--model=mlp", epochs=1) == 2
    assert "architecture" in capsys.readouterr().err
    assert run(tmp_path / "none", f"--init_from={tmp_path}", epochs=1) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_several_seeds_are_several_runs_and_one_compilation(seeds):
    folder, compiled = seeds
    folders = sorted(path.name for path in folder.iterdir())
    assert folders == ["digits-grad_l2l-0", "digits-grad_l2l-1"]
    one, two = (fingerprints(folder / name)["theta_sha256"] for name in folders)
    assert one != two
    assert len(compiled) == 1


def start(workdir):
    """The script as a process of its own, which saves itself after every step."""
    flags = [*SMALL, f"--workdir={workdir}", "--epochs=3", "--checkpoint_minutes=1e-7"]
    return launch("experiments/train.py", *flags)


def test_the_real_command_survives_kill_and_sigterm(uninterrupted, tmp_path, capsys):
    workdir = tmp_path / "killed"
    process = start(workdir)
    wait_for_checkpoint(workdir, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    names = [path.name for path in (workdir / "checkpoints" / "last").iterdir()]
    last = max(int(name) for name in names if name.isdigit())
    process = start(workdir)
    wait_for_checkpoint(workdir, process, beyond=last)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "resumed at step" in said, said
    assert run(workdir) == 0
    assert "theta sha256" in capsys.readouterr().out
    assert_same_run(uninterrupted, workdir)


def test_a_checkpoint_is_due_by_the_clock_within_an_epoch_too(uninterrupted, tmp_path):
    workdir = tmp_path / "often"
    assert run(workdir, "--checkpoint_minutes=0.0000001") == 0
    assert_same_run(uninterrupted, workdir)
    assert sorted(int(p.name) for p in (workdir / "checkpoints" / "last").iterdir()) == [11, 12]


def test_ones_own_arrays_train_and_evaluate(tmp_path, capsys):
    import numpy as np

    from l2ljax.commands import evaluate

    rng = np.random.default_rng(0)
    y = np.arange(330) % 3
    x = rng.integers(0, 60, (330, 12, 10, 3)) + 60 * y[:, None, None, None]
    x = x.astype(np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    flags = [f"--dataset=npz:{tmp_path / 'own.npz'}", "--recipe=quick", "--model=mlp"]
    flags += ["--attacker=slim", "--attacker_width=0.03125", "--epochs=1", "--batch_size=64"]
    flags += ["--method=two_step_l2l", "--bf16", "--noplots", "--notensorboard", "--diagnose=0"]
    workdir = tmp_path / "run"
    flags += ["--final_attacks=clean", f"--workdir={workdir}", "--theta_lr=0.01"]
    assert train.main(flags) == 0
    assert not (workdir / "tensorboard").exists()
    assert evaluate.main([f"--workdir={workdir}", "--attacks=clean,pgm10+fgsm"]) == 0
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    clean, attacked = results["clean"], results["pgm10+fgsm"]
    assert attacked["accuracy"] <= clean["accuracy"] and len(clean["robust"]) == 30
    theta = restore_any(workdir, kind="last")[0]["theta"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(theta)} == {"float32"}


@pytest.mark.parametrize("method", ["plain", "naive_l2l", "multistep_l2l", "kstep_l2l"])
def test_every_method_trains_through_the_script(method, tmp_path):
    flags = [*SMALL, f"--method={method}", f"--workdir={tmp_path / 'run'}", "--ema_decay=0"]
    flags += ["--inner_steps=2"] if method in ("multistep_l2l", "kstep_l2l") else []
    assert train.main([*flags, "--epochs=1", "--final_attacks=clean"]) == 0
    line = read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert 0 <= line["val/robust"] <= line["val/clean"] <= 1
    assert ("attacker/adequacy" in line) == (method != "plain")


def test_a_signal_before_the_first_step_saves_the_start(uninterrupted, tmp_path, monkeypatch):
    resume = loop.Loop.resume

    def raise_signal(self):
        signal.raise_signal(signal.SIGTERM)
        return resume(self)

    monkeypatch.setattr(loop.Loop, "resume", raise_signal)
    workdir = tmp_path / "early"
    assert run(workdir) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert run(workdir) == 0
    assert_same_run(uninterrupted, workdir)


def test_two_processes_do_not_train_in_one_folder(uninterrupted, capsys):
    from l2ljax.runs.config import lock

    with lock(uninterrupted):
        assert run(uninterrupted) == 2
    assert "another process is training there" in capsys.readouterr().err
    assert run(uninterrupted) == 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The metrics of a plain run by where its data lie and how many steps a call has."""
    found = {}
    for place in ([], ["--data_on=host"]):
        for steps in ([], ["--steps_per_call=3"], ["--steps_per_call=8"]):
            workdir = tmp_path_factory.mktemp("plain") / "run"
            assert train.main([*PLAIN, *place, *steps, f"--workdir={workdir}"]) == 0
            found[(*place, *steps)] = metrics(workdir)
    return found


@pytest.mark.parametrize(
    "flags", [("--data_on=host",), ("--steps_per_call=3",), ("--steps_per_call=8",)]
)
def test_where_the_data_lie_and_how_many_steps_a_call_has_changes_nothing(flags, plain):
    on_host = flags if "--data_on=host" in flags else ("--data_on=host", *flags)
    runs = [plain[()], plain[on_host], plain[flags]]
    whole = [[line["step"] for line in lines] for lines in runs]
    assert whole[0] == whole[1] == whole[2]
    for lines in runs[1:]:
        for one, other in zip(runs[0], lines, strict=True):
            assert one.keys() == other.keys()
            assert all(one[name] == pytest.approx(other[name], rel=1e-5) for name in one)


def test_the_metrics_of_a_step_are_on_the_disk_before_its_checkpoint(tmp_path, monkeypatch):
    synced, saved, fsync, save = {}, [], os.fsync, Checkpoints.save

    def remember(number):
        fsync(number)
        synced[os.fstat(number).st_ino] = os.fstat(number).st_size

    def check(self, step, *rest, **kind):
        found = (tmp_path / "run" / "metrics.jsonl").stat()
        saved.append((step, synced.get(found.st_ino) == found.st_size))
        return save(self, step, *rest, **kind)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(Checkpoints, "save", check)
    flags = [f"--workdir={tmp_path / 'run'}", "--checkpoint_minutes=1e-7"]
    assert train.main([*PLAIN, *flags]) == 0
    assert len(saved) > 2 and all(on_the_disk for _, on_the_disk in saved), saved


def test_a_profile_says_whose_time_went_where(tmp_path, capsys):
    flags = ["--model=mlp", "--ema_decay=0", "--diagnose=0", "--final_attacks=clean"]
    assert run(tmp_path / "run", "--profile", *flags) == 0
    said = capsys.readouterr().err
    table = said[said.index("whose") :].splitlines()
    rows = [line for line in table if line.rstrip().endswith("%") and "busy" not in line][:20]
    rows = [line for line in rows if line.split()[0] in ("classifier", "attacker", "the")]
    shares = [float(line.split()[-2]) for line in rows]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert {"attacker", "classifier"} <= {line.split()[0] for line in rows}
    assert any("convolution" in line for line in rows)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_out_of_memory_is_one_line_with_the_ways_out(tmp_path, monkeypatch, capsys):
    def exhausted(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(loop.Loop, "epoch", exhausted)
    assert train.main([*PLAIN, f"--workdir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    for way in ("--batch_size=64", "--accumulate", "--remat"):
        assert way in said
