"""The one command for an accelerator: its stages, what it skips and what it ends."""

import pytest

import gpu

GOOD = "import sys, pathlib\npathlib.Path(sys.argv[-1].partition('=')[2] + '.json').write_text('1')"
SLOW = "import time\ntime.sleep(60)"
BAD = "raise SystemExit(3)"


@pytest.fixture
def stages(tmp_path, monkeypatch):
    for name, text in (("good", GOOD), ("slow", SLOW), ("bad", BAD)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "STAGES", {name: [f"{name}.py"] for name in ("good", "slow", "bad")})
    return tmp_path / "out"


def test_what_is_done_is_not_run_again(stages, capsys):
    assert gpu.main([f"--out={stages}", "--stages=good"]) == 0
    assert (stages / "good.json").exists() and (stages / "good.log").exists()
    assert gpu.main([f"--out={stages}", "--stages=good"]) == 0
    assert "good: done before" in capsys.readouterr().out


def test_a_stage_that_lacks_time_is_ended_and_the_rest_is_left(stages, capsys):
    assert gpu.main([f"--out={stages}", "--stages=slow,good", "--minutes=0.05"]) == 1
    said = capsys.readouterr().out
    assert "slow: ended for lack of time" in said and "left: slow, good;" in said


def test_a_stage_that_fails_is_left_and_the_others_run(stages, capsys):
    assert gpu.main([f"--out={stages}", "--stages=bad,good"]) == 1
    said = capsys.readouterr().out
    assert "bad: ended with 3" in said and "left: bad;" in said
    assert (stages / "good.json").exists()


def test_bad_flags_are_refused(capsys):
    assert gpu.main(["--stages=fast"]) == 2 and gpu.main(["--minutes=0"]) == 2
    assert "--stages=fast is none of accelerator, mfu" in capsys.readouterr().err


@pytest.mark.parametrize("name", gpu.STAGES)
def test_every_stage_is_a_command_that_parses(name):
    import importlib

    from l2ljax.commands.flags import parse

    script, *flags = gpu.STAGES[name]
    given = parse(importlib.import_module(script.removesuffix(".py")).FLAGS, flags)
    assert len(given) == len(flags)
