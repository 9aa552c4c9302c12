"""Two checkouts side by side: what counts as the same. The checkouts here are made up."""

import json

import same_numbers

FAKE = """
import json, pathlib, sys
flags = dict(word[2:].split("=") for word in sys.argv[1:])
folder = pathlib.Path(flags["--workdir"[2:]])
folder.mkdir()
hashes = {"theta_sha256": flags["method"] + flags["seeds"], "phi_sha256": PHI}
(folder / "summary.json").write_text(json.dumps(hashes))
"""


def test_two_checkouts_are_the_same_where_all_hashes_are(tmp_path, capsys):
    for name, phi in (("old", "a"), ("new", "a"), ("other", "b")):
        (tmp_path / name / "experiments").mkdir(parents=True)
        script = tmp_path / name / "experiments" / "train.py"
        script.write_text(FAKE.replace("PHI", repr(phi)))
    flags = [f"--before={tmp_path / 'old'}", "--methods=plain,pgm", "--seeds=3"]
    assert same_numbers.main([*flags, f"--after={tmp_path / 'new'}"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines[0].split() == ["plain", "3", "plain3", "plain3", "a", "a", "yes"]
    assert same_numbers.main([*flags, f"--after={tmp_path / 'other'}"]) == 1
    assert capsys.readouterr().out.split()[-3:] == ["a", "b", "NO"]
    script.write_text("raise SystemExit('no such flag')")
    assert same_numbers.main([*flags, f"--after={tmp_path / 'other'}"]) == 2
    assert "plain, seed 3 ended with 1: no such flag" in capsys.readouterr().err


def test_losses_may_differ_by_what_float64_rounds(tmp_path):
    def losses(factor, steps=24):
        lines = [{"step": n, "theta/loss": factor * (1 + 1 / n)} for n in range(1, steps + 1)]
        # An epoch's own line repeats a step with the mean; the step's own loss is what counts.
        lines = [{"step": 0, "val/clean": 0.5}, *lines, {"step": 8, "theta/loss": 7.0}]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return same_numbers.read(tmp_path, True)

    before = losses(1.0)
    assert before["losses"] == [1 + 1 / n for n in range(1, 21)]
    assert same_numbers.compare(before, losses(1 + 1e-12))[1]
    assert not same_numbers.compare(before, losses(1 + 1e-8))[1]
    assert not same_numbers.compare(before, losses(1.0, steps=19))[1]
    nan = losses(float("nan"))
    assert not same_numbers.compare(nan, nan)[1]


def test_bad_flags_get_one_line(tmp_path, capsys):
    for flags, line in (
        ([], "--before=FOLDER with a checkout is needed"),
        ([f"--before={tmp_path}", "--after=."], "has no experiments/train.py"),
        (["--befor=."], "did you mean 'before'"),
    ):
        assert same_numbers.main(flags) == 2
        err = capsys.readouterr().err
        assert line in err and err.count("\n") == 1
