"""The scripts that put runs side by side: demo, compare, search, and what evaluate writes."""

import json
import shutil

import numpy as np
import pytest

from l2ljax.commands import compare, demo, evaluate, search
from l2ljax.evaluation.results import interval, wilson
from l2ljax.methods import METHODS
from l2ljax.runs.comparison import page
from l2ljax.settings import defaults
from l2ljax.terminal import markdown

TINY = "--model=mlp --attacker=two_layer --attacker_width=0.03125 --diagnose=16"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    flags = [f"--workdir={folder / 'runs'}", f"--flags={TINY} --epochs=2"]
    flags += ["--methods=fgsm,plain", "--against=fgsm", "--seeds=1,2", "--draws=200"]
    flags += ["--attacks=clean,fgsm,pgm10", f"--search={folder}", "--trials=2"]
    for method in ("fgsm", "plain"):
        tried = [(0.1, 0.3), (0.3, 0.5), (0.0, 0.9)]
        lines = [
            json.dumps({"trial": i, "flags": {"label_smoothing": s}, "robust": robust})
            for i, (s, robust) in enumerate(tried)
        ]
        (folder / f"{method}.jsonl").write_text("\n".join(lines))
    assert compare.main(flags) == 0
    return folder, flags


def test_compare_reports_what_the_runs_measured(compared):
    folder, _ = compared
    report = json.loads((folder / "runs" / "digits.json").read_text())
    for method, row in report["rows"].items():
        for i, seed in enumerate(report["seeds"]):
            path = folder / "runs" / f"digits-{method}-{seed}" / "evaluation.json"
            results = json.loads(path.read_text())["results"]
            for attack in report["attacks"]:
                bits = results[attack]["robust"]
                assert row["accuracy"][attack][i] == bits.count("1") / len(bits)
                assert results[attack]["accuracy"] == bits.count("1") / len(bits)
    assert report["rows"]["fgsm"]["gap"] == [0.0, 0.0, 0.0] and report["rows"]["fgsm"]["time"] == 1
    mean = {m: np.mean(row["accuracy"]["pgm10"]) for m, row in report["rows"].items()}
    gap, low, high = report["rows"]["plain"]["gap"]
    assert gap == pytest.approx(mean["plain"] - mean["fgsm"]) and low <= gap <= high
    page = (folder / "runs" / "digits.md").read_text()
    assert report["command"] in page and "seeds 1, 2" in page and "commit" in page


def test_compare_tells_the_differences_of_other_pairs(compared, capsys):
    folder, flags = compared
    flags = [*flags, f"--out={folder / 'pairs'}"]
    assert compare.main([*flags, "--pairs=plain:fgsm,fgsm:plain"]) == 0
    report = json.loads((folder / "pairs.json").read_text())
    gap, other = report["pairs"]["plain:fgsm"], report["pairs"]["fgsm:plain"]
    assert gap[0] == report["rows"]["plain"]["gap"][0] == -other[0]
    assert gap[1] <= gap[0] <= gap[2]
    assert f"| plain | fgsm | {100 * gap[0]:+.1f} [" in (folder / "pairs.md").read_text()
    capsys.readouterr()
    for wrong in ("fgsm", "fgsm:pgm", "fgsm:plain:fgsm"):
        assert compare.main([*flags, f"--pairs={wrong}"]) == 2
        assert f"--pairs: {wrong} is no A:B" in capsys.readouterr().err


def test_compare_gives_every_method_the_best_of_the_same_number_of_trials(compared, capsys):
    folder, flags = compared
    report = json.loads((folder / "runs" / "digits.json").read_text())
    for method in ("fgsm", "plain"):
        assert report["rows"][method]["flags"]["label_smoothing"] == 0.3
        assert report["search"][method]["chosen"] == 1 and report["search"][method]["trials"] == 2
    assert compare.main([*flags, "--trials=4"]) == 2
    assert "3 of 4 trials: python experiments/search.py" in capsys.readouterr().err
    assert compare.main([*flags, "--search="]) == 2
    assert "--trials needs --search" in capsys.readouterr().err


def test_compare_takes_finished_runs_as_they_are(compared, monkeypatch):
    folder, flags = compared
    before = (folder / "runs" / "digits-fgsm-1" / "metrics.jsonl").read_bytes()
    freed = []
    monkeypatch.setattr(compare.jax, "clear_caches", lambda: freed.append(True))
    assert compare.main(flags) == 0 and len(freed) == 2 * 2  # a row's programs do not outlive it
    assert (folder / "runs" / "digits-fgsm-1" / "metrics.jsonl").read_bytes() == before


def test_compare_attacks_again_where_other_attacks_or_images_are_asked_for(compared, tmp_path):
    folder, flags = compared
    shutil.copytree(folder / "runs", tmp_path / "runs")
    flags = [*flags, "--seeds=1", f"--workdir={tmp_path / 'runs'}"]
    flags += [f"--out={tmp_path / 'digits'}"]
    for more, images in (["--num_examples=40"], 40), ([], 500), (["--attacks=clean,pgm3"], 500):
        assert compare.main([*flags, *more]) == 0
        report = json.loads((tmp_path / "digits.json").read_text())
        assert report["images"] == images
    assert len(report["rows"]["fgsm"]["accuracy"]["pgm3"]) == 1
    run = tmp_path / "runs" / "digits-fgsm-1"  # where someone has tested another checkpoint since
    assert evaluate.main([f"--workdir={run}", "--which=last", "--attacks=clean,pgm3"]) == 0
    assert compare.main([*flags, "--attacks=clean,pgm3"]) == 0
    assert json.loads((tmp_path / "digits.json").read_text()) == report


def test_compare_tests_the_last_epoch_beside_the_best(compared, tmp_path):
    folder, flags = compared
    shutil.copytree(folder / "runs", tmp_path / "runs")
    flags = [*flags, "--seeds=1", f"--workdir={tmp_path / 'runs'}", f"--out={tmp_path / 'last'}"]
    assert compare.main([*flags, "--which=last"]) == 0
    report = json.loads((tmp_path / "last.json").read_text())
    assert report["which"] == "last" and "the last epoch" in (tmp_path / "last.md").read_text()
    for method in ("fgsm", "plain"):
        run = tmp_path / "runs" / f"digits-{method}-1"
        best = json.loads((run / "evaluation.json").read_text())
        last = json.loads((run / "evaluation_last.json").read_text())
        assert (best["which"], last["which"]) == ("best", "last")
        bits = last["results"]["pgm10"]["robust"]
        assert report["rows"][method]["accuracy"]["pgm10"][0] == bits.count("1") / len(bits)


def test_a_page_tells_when_a_run_overfitted_and_gives_one_seed_no_spread(compared):
    report = json.loads((compared[0] / "runs" / "digits.json").read_text())
    row = report["rows"]["fgsm"]
    assert "| 0 of 2 |" in page(report) and "(standard deviation over seeds)" in page(report)
    row["overfitting"] = [[{"epoch": 7}, {"epoch": 9}], []]
    assert "| 1 of 2, epoch 7 |" in page(report)
    row["overfitting"][1] = [{"epoch": 12}]
    assert "| 2 of 2, epochs 7, 12 |" in page(report)
    report["seeds"], row["accuracy"] = ["1"], {"clean": [0.5], "fgsm": [0.25], "pgm10": [0.125]}
    del report["rows"]["plain"]
    assert "| fgsm | 50.0 | 25.0 | 12.5 |" in page(report)
    assert "seed 1: in %" in page(report) and "deviation" not in page(report)


def test_compare_refuses_a_reference_that_is_not_there(capsys):
    assert compare.main(["--methods=plain", "--against=pgm"]) == 2
    assert "--against=pgm" in capsys.readouterr().err


def test_evaluate_gives_the_same_images_for_any_batch_size(compared, tmp_path, capsys):
    folder, _ = compared
    workdir = folder / "runs" / "digits-plain-1"
    stood = []
    for size in (64, 77):
        out = tmp_path / f"{size}.json"
        flags = [f"--workdir={workdir}", "--attacks=pgm10x2,fgsm", "--num_examples=150"]
        assert (
            evaluate.main([*flags, f"--batch_size={size}", f"--output={out}", "--eps=51/255"]) == 0
        )
        written = json.loads(out.read_text())
        assert written["images"] == 150 and written["made_with"]["jax"]
        assert [r["eps"] for r in written["results"].values()] == ["51/255", "51/255"]
        stood.append([r["robust"] for r in written["results"].values()])
    assert stood[0] == stood[1]
    assert "eps = 51/255" in capsys.readouterr().out


def test_evaluate_knows_which_checkpoints_there_are(compared, capsys):
    folder, _ = compared
    workdir = folder / "runs" / "digits-plain-1"
    assert evaluate.main([f"--workdir={workdir}", "--which=best_ema"]) == 2
    assert "--ema_decay" in capsys.readouterr().err


def test_the_demo_ends_with_its_table_and_names_what_it_wrote(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    flags = [f"--out={tmp_path}", "--epochs=1", "--attacks=clean,fgsm", "--columns=4"]
    flags += [f"--flags={TINY}"]
    assert demo.main(flags) == 0
    out = capsys.readouterr().out
    for method in demo.METHODS:
        assert any(line.startswith(method) and "%" in line for line in out.splitlines())
    written = [line.strip() for line in out.partition("Written:")[2].splitlines() if line.strip()]
    pictures = {"comparison.png", "perturbations.png", "curves.png", "attacker.png"}
    assert pictures <= {name.rpartition("/")[2] for name in written}
    for name in written:
        assert (tmp_path / name).stat().st_size > 1000, name


def test_search_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    small = {"epochs": (1,), "model": ("mlp",), "inner_steps": (1, 2)}
    monkeypatch.setitem(search.SPACES, "pgm", small)
    flags = ["--method=pgm", f"--out={tmp_path}"]
    assert search.main([*flags, "--trials=1"]) == 0
    first = (tmp_path / "pgm.jsonl").read_text()
    assert search.main([*flags, "--trials=2"]) == 0
    lines = (tmp_path / "pgm.jsonl").read_text().splitlines(keepends=True)
    assert lines[0] == first and len(lines) == 2
    assert all(0 <= json.loads(line)["robust"] <= 1 for line in lines)
    assert search.main(["--method=pmg"]) == 2


def test_every_draw_of_a_search_is_a_possible_run():
    from l2ljax.runs import config

    trials = defaults(search.FLAGS)["trials"]
    assert set(search.SPACES) == set(METHODS)
    for method in search.SPACES:
        draws = [search.draw(search.SPACES[method], trial, 1000) for trial in range(trials)]
        assert len({json.dumps(flags) for flags in draws}) == trials
        for flags in draws:
            config.resolve({"dataset": "digits", "method": method, **flags})


def test_tables():
    low, high = wilson(0.5, 500)
    assert interval(0.5, 500) == f" 50.0 % [{100 * low:.1f}, {100 * high:.1f}]"
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
