"""A run that holds out no validation images: it selects its last epoch, and says so."""

import json

import pytest

from l2ljax.checkpoint import restore_any
from l2ljax.commands import compare, evaluate, search, train, transfer
from l2ljax.data import load
from l2ljax.errors import InputError
from l2ljax.record import read
from l2ljax.runs import config as configuration
from processes import timeless

TINY = "--model=mlp --attacker=two_layer --attacker_width=0.03125 --batch_size=256 --epochs=2"
REST = "--val_size=0 --ema_decay=0.9 --diagnose=16 --final_attacks=clean,fgsm --notensorboard"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, what the command printed) of a run on all 1,297 digits."""
    workdir = tmp_path_factory.mktemp("all") / "run"
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        code = train.main([*TINY.split(), *REST.split(), f"--workdir={workdir}"])
    assert code == 0, said
    return workdir, "\n".join(said)


def test_it_trains_on_every_image_and_says_what_that_costs(run):
    workdir, said = run
    assert "1297 training, 0 validation, 500 test images" in said
    assert "no validation images: the last epoch is taken as the best, and nothing watches" in said
    assert "best is the last epoch: there were no validation images to select by" in said
    lines = read(workdir / "metrics.jsonl")
    assert not [name for line in lines for name in line if name.startswith("val/")]
    epochs = [line for line in lines if "seconds/train" in line]
    assert [line["epoch"] for line in epochs] == [1, 2]
    for line in epochs:
        assert len([name for name in line if name.startswith("attacker/")]) == 6
        assert 0 < line["theta/clean_accuracy"] <= 1
    assert (workdir / "curves.png").exists()


def test_the_best_epoch_is_the_last(run):
    workdir, _ = run
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["best"] == {"best": {"epoch": 2}, "best_ema": {"epoch": 2}}
    assert summary["val_images"] == 0 and len(set(summary["steps"].values())) == 1
    assert timeless(summary["test"]["best"]) == timeless(summary["test"]["last"])
    (theta, _, best), (last, _, step) = (restore_any(workdir, kind=k) for k in ("best", "last"))
    assert best == step == 10
    assert (theta["theta"]["fc1"]["kernel"] == last["theta"]["fc1"]["kernel"]).all()


def test_it_is_evaluated_on_the_test_set_and_not_on_what_it_has_not(run, capsys):
    workdir, _ = run
    flags = [f"--workdir={workdir}", "--num_examples=20", "--attacks=clean"]
    assert evaluate.main([*flags, "--which=best"]) == 0
    written = json.loads((workdir / "evaluation.json").read_text())
    assert len(written["results"]["clean"]["robust"]) == 20
    capsys.readouterr()
    assert evaluate.main([*flags, "--split=val"]) == 2
    told = f"--targets={workdir}", f"--surrogates={workdir}", f"--output={workdir / 'there'}"
    assert transfer.main([*told, "--split=val"]) == 2
    said = capsys.readouterr().err
    assert said.count("--split=val: the run held out no validation images (--val_size=0)") == 2


@pytest.mark.parametrize(
    "flag, why",
    [
        ("--on_overfitting=stop", "--on_overfitting=stop watches the validation images"),
        ("--on_overfitting=rollback", "--on_overfitting=rollback watches the validation images"),
        ("--select_check=16", "--select_check=16 looks at validation images"),
    ],
)
def test_what_needs_validation_images_is_refused_in_one_line(flag, why, tmp_path, capsys):
    flags = [*TINY.split(), *REST.split(), f"--workdir={tmp_path / 'run'}", flag]
    assert train.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line and line.endswith("--val_size=0 holds none out")
    assert not (tmp_path / "run").exists()


def test_nothing_is_chosen_or_compared_without_validation_images(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--methods=plain", "--against=plain", "--seeds=0"]
    assert compare.main([*flags, "--flags=--epochs=1 --val_size=0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--val_size=0 holds out no validation images to choose by" in line
    assert not list(tmp_path.iterdir())
    config = configuration.resolve({"method": "plain", "dataset": "digits"})
    with pytest.raises(InputError, match="holds out no validation images to choose by"):
        search.try_once(config, load("digits", val_size=0), 0)
