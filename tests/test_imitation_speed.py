"""The speed of imitation: one small run, and what is refused."""

import json

import pytest

import imitation_speed
from needs import gymnax


@gymnax
def test_seeds_together_and_alone_are_timed(tmp_path, capsys):
    flags = ["--environment=CartPole-v1", "--follower=constant_reward", "--seeds=2", "--rounds=1"]
    assert imitation_speed.main([*flags, f"--out={tmp_path / 'speed'}"]) == 0
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    rate = row["steps_a_second"]
    assert row["ratio"] == pytest.approx(rate["together"] / rate["alone"])
    assert rate["together"] == pytest.approx(2 * 2048 / row["seconds"]["together"][0])
    assert "one by one" in capsys.readouterr().out
    assert imitation_speed.main(["--seeds=0"]) == 2
