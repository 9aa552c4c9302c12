"""The two benchmarks' own arithmetic and their errors; needs neither torch nor the attacks."""

import pytest

import agreement
import vs_autoattack


def run(side, threads, round_, seconds, total):
    return {
        "side": side,
        "threads": threads,
        "round": round_,
        "seconds": seconds,
        "total": total,
        "before": 1.0,
        "accuracy": {"clean": 0.5, "apgd-ce": 0.25},
    }


def test_a_ratio_is_taken_within_a_round():
    """A machine that is ten times slower in one round slows both sides."""
    runs = []
    for round_, slow in enumerate((1, 10, 1)):
        runs.append(run("ours", 1, round_, {"apgd-ce": 3.0 * slow, "square": 1.0 * slow}, 4 * slow))
        runs.append(run("official", 1, round_, {"apgd-ce": 2.0 * slow}, 2 * slow))
    rows = vs_autoattack.summarise(runs)
    assert rows[1, "apgd-ce"]["ratio"] == pytest.approx(1.5)
    assert rows[1, "whole cascade"]["ratio"] == pytest.approx(2.0)
    assert rows[1, "whole cascade"]["ours"] == pytest.approx(4.0)
    # An attack that the official suite left out, because nothing stood, took it no time.
    assert rows[1, "square"]["official"] == 0
    assert rows[1, "square"]["accuracy_official"] == 0.25


@pytest.mark.parametrize(
    "script, flags, words",
    [
        (agreement, [], "--workdirs"),
        (agreement, ["--workdirs=a"], "--eps_l2"),
        (agreement, ["--workdirs=a", "--norms=l1"], "l1"),
        (agreement, ["--workdirs=a", "--norms=linf", "--models=twn"], "twin"),
        (agreement, ["--workdirs=a,b,c", "--norms=linf", "--eps=0.1,0.2"], "1 or 3 radii"),
        (agreement, ["--workdirs=a", "--norms=linf", "--images=many"], "--images=many"),
        (agreement, ["--workdirs=a", "--norms=linf", "--budget=10,10"], "--budget=10,10"),
        (agreement, ["--workdirs=a", "--norms=linf", "--seeds=1"], "at least 2"),
        (vs_autoattack, [], "--workdir"),
        (vs_autoattack, ["--workdir=a", "--threads=1000"], "--threads=1000"),
        (vs_autoattack, ["--workdir=a", "--threads=two"], "--threads=two"),
    ],
)
def test_bad_input_is_one_line(script, flags, words, capsys):
    assert script.main(flags) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
