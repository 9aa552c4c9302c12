"""The benchmark against PyTorch: its table and what it refuses; its steps are in crosscheck/."""

import importlib.util

import pytest

import vs_torch


def test_ratios_are_medians_of_ratios_within_a_round():
    narrow = {"float64": {"theta": 2e-8}, "float32": {"theta": 2e-6}}
    both = {"float64": {"theta": 1e-8, "phi": 3e-8}, "float32": {"theta": 1e-6, "phi": 3e-5}}
    checked = {"wrn-10-1 plain": narrow, "wrn-10-1 grad_l2l": both}
    times = [(10.0, 5.0), (30.0, 10.0), (12.0, 12.0)]
    rounds = [
        {"ours": dict.fromkeys(checked, [a, a]), "eager": dict.fromkeys(checked, [b])}
        for a, b in times
    ]
    header, plain, grad = vs_torch.table(["ours", "eager"], checked, rounds)
    assert header[-3:] == ["ours ms", "eager ms", "ours / eager"]
    assert plain == ["wrn-10-1", "plain", "2e-08", "2e-06", "12.0", "10.0", "2.00"]
    assert grad[2:4] == ["3e-08", "3e-05"]


@pytest.mark.parametrize(
    "flag, message",
    [("--methods=trades", "no writing in torch"), ("--rounds=0", "--rounds=0 must be positive")],
)
def test_bad_flags_are_refused(flag, message, capsys):
    assert vs_torch.main([flag]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_one_line_names_the_extra(capsys):
    assert vs_torch.main([]) == 2
    assert "pip install -e '.[crosscheck]'" in capsys.readouterr().err
