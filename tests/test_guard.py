"""Catastrophic overfitting: what counts as one, and what the guard does about it."""

import json
import signal

import pytest

from l2ljax.checkpoint import restore_any
from l2ljax.commands import train
from l2ljax.record import read
from l2ljax.runs import loop, validation
from l2ljax.runs.diagnostics import overfitted
from processes import timeless

SMALL = "--method=fast_at --model=mlp --batch_size=256 --epochs=5 --augment=none --log_every=2"
REST = "--final_attacks=clean,fgsm --noplots --notensorboard --checkpoint_every=2"
GOOD, COLLAPSED = (0.5, 0.6), (0.1, 0.9)
"""Validation accuracy under PGM-10 and under FGSM."""


@pytest.mark.parametrize(
    "robust, fgsm, best, classes, expected",
    [
        (0.10, 0.90, 0.50, 10, True),
        (0.24, 0.45, 0.50, 10, True),
        (0.26, 0.90, 0.50, 10, False),  # above half of its best
        (0.10, 0.29, 0.50, 10, False),  # FGSM has fallen as well: a bad epoch
        (0.36, 0.50, 0.40, 10, False),  # an honest learned attacker's gap
        (0.00, 0.90, 0.00, 10, False),  # it never was robust
        (0.00, 0.29, 0.005, 10, False),  # nor was this, whatever one image says
        (0.02, 0.30, 0.09, 10, False),  # a guess is right more often
        (0.02, 0.30, 0.09, 100, True),  # not where there are more classes
    ],
)
def test_overfitting_is_a_fall_of_pgm_alone(robust, fgsm, best, classes, expected):
    assert overfitted({"val/robust": robust, "val/fgsm": fgsm}, best, classes) is expected


def play(monkeypatch, workdir, script, *flags):
    """A run whose validation says what script(epoch, rollbacks) tells it."""
    real = validation.Validation.validate

    def validate(self, state):
        epoch = int(state.step) // self.game.steps_per_epoch
        robust, fgsm = script(epoch, int(state.rollbacks))
        return real(self, state) | {"val/robust": robust, "val/fgsm": fgsm}

    with monkeypatch.context() as patch:
        patch.setattr(validation.Validation, "validate", validate)
        return train.main([*SMALL.split(), *REST.split(), f"--workdir={workdir}", *flags])


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def once(epoch, rollbacks):
    return COLLAPSED if epoch == 4 and rollbacks == 0 else GOOD


def always(epoch, rollbacks):
    return COLLAPSED if epoch >= 4 else GOOD


def test_a_warning_names_the_first_epoch_of_a_collapse_and_the_run_goes_on(
    monkeypatch, tmp_path, capsys
):
    assert play(monkeypatch, tmp_path, always) == 0
    said = capsys.readouterr()
    assert said.err.count("catastrophic overfitting in epoch 4") == 1
    assert "in epoch 5" not in said.err and "--on_overfitting=rollback" in said.err
    assert "catastrophic overfitting in epoch 4: 10.0 % under PGM-10 after 50.0" in said.out
    found = summary(tmp_path)
    assert [event["epoch"] for event in found["overfitting"]] == [4]
    assert (found["rollbacks"], found["stopped"]) == (0, None)
    (line,) = [line for line in read(tmp_path / "metrics.jsonl") if "overfitting/epoch" in line]
    assert line["epoch"] == line["overfitting/epoch"] == 4
    assert found["steps"]["last"] == read(tmp_path / "metrics.jsonl")[-1]["step"]


def test_stop_keeps_the_last_good_epoch_and_stays_stopped(monkeypatch, tmp_path, capsys):
    assert play(monkeypatch, tmp_path, always, "--on_overfitting=stop") == 0
    found = summary(tmp_path)
    steps = read(tmp_path / "metrics.jsonl")[-1]["step"]
    assert found["stopped"] == 3 and found["rollbacks"] == 0
    assert found["steps"]["last"] == steps
    assert read(tmp_path / "metrics.jsonl")[-1]["epoch"] == 3
    assert restore_any(tmp_path)[2] == restore_any(tmp_path, kind="good")[2] == steps
    capsys.readouterr()
    assert play(monkeypatch, tmp_path, always, "--on_overfitting=stop") == 0
    assert "stopped with the good epoch 3" in capsys.readouterr().out
    assert read(tmp_path / "metrics.jsonl")[-1]["step"] == steps


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert play(patch, workdir, once, "--on_overfitting=rollback") == 0
    return workdir


def test_a_rollback_halves_thetas_rate_and_draws_anew(rolled_back, monkeypatch, tmp_path):
    assert play(monkeypatch, tmp_path, lambda *_: GOOD, "--on_overfitting=rollback") == 0
    found = summary(rolled_back)
    assert (found["rollbacks"], found["stopped"]) == (1, None)
    plain, back = (
        {line["epoch"]: line for line in read(folder / "metrics.jsonl") if "val/clean" in line}
        for folder in (tmp_path, rolled_back)
    )
    for epoch in (1, 2, 3):
        assert back[epoch]["theta/loss"] == plain[epoch]["theta/loss"]
        assert back[epoch]["theta/lr"] == plain[epoch]["theta/lr"]
    assert back[4]["theta/lr"] == pytest.approx(plain[4]["theta/lr"] / 2)
    assert back[4]["theta/loss"] != plain[4]["theta/loss"]
    assert back[3]["overfitting/epoch"] == 4 and back[3]["overfitting/fgsm"] == 0.9
    assert found["steps"]["last"] == summary(tmp_path)["steps"]["last"]


def test_after_three_rollbacks_the_run_stops(monkeypatch, tmp_path, capsys):
    assert play(monkeypatch, tmp_path, always, "--on_overfitting=rollback") == 0
    found = summary(tmp_path)
    assert (found["rollbacks"], found["stopped"]) == (3, 3)
    assert len(found["overfitting"]) == 4
    assert "after 3 rollbacks the run ends" in capsys.readouterr().err


@pytest.mark.parametrize("at", ["before", "after"])
def test_resume_across_a_rollback_is_bit_identical(rolled_back, monkeypatch, tmp_path, at):
    """Interrupted in the epoch that will collapse, and in the same epoch played again."""
    workdir, measured = tmp_path / "stopped", loop.Loop.measured

    def interrupt(self, step, *rest):
        measured(self, step, *rest)
        within = step == 3 * self.game.steps_per_epoch + 1
        if within and len(self.notes["overfitting"]) == (at == "after"):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "measured", interrupt)
        assert play(patch, workdir, once, "--on_overfitting=rollback") == 130
    assert play(monkeypatch, workdir, once, "--on_overfitting=rollback") == 0
    one, two = timeless(summary(workdir)), timeless(summary(rolled_back))
    assert one | {"made_with": None} == two | {"made_with": None}
    clocks = ("time", "seconds/train", "seconds/validation")
    for one, two in zip(
        *(read(folder / "metrics.jsonl") for folder in (workdir, rolled_back)), strict=True
    ):
        assert {k: v for k, v in one.items() if k not in clocks} == {
            k: v for k, v in two.items() if k not in clocks
        }
