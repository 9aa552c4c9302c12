"""The MFU benchmark: its FLOPs against a count by hand, and one run."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import mfu
from l2ljax.models import make_classifier
from step_cost import alike


def by_hand():
    """Two per weight of the mlp's layers; what is elementwise is a few per cent more."""
    net = make_classifier("mlp", 10)
    widths = (64, *net.hidden, 10)
    return 2 * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def test_a_forward_pass_costs_two_per_weight():
    counted = mfu.forward_flops(make_classifier("mlp", 10), jnp.zeros((8, 8, 8, 1)))
    assert by_hand() <= counted < 1.1 * by_hand()


def test_a_step_costs_its_passes():
    sizes = {"size": 8, "channels": 1}
    forward = mfu.forward_flops(make_classifier("mlp", 10), jnp.zeros((8, 8, 8, 1)))
    config = alike("plain", {"model": "mlp", "batch_size": 16})
    assert mfu.model_flops(config, **sizes) == pytest.approx(3 * 16 * forward)
    config = alike("pgm", {"model": "mlp", "batch_size": 16})
    steps = config["inner_steps"]
    # Clean and attacked images: two forward and two backward passes, and a gradient per step.
    assert mfu.model_flops(config, **sizes) == pytest.approx((2 * steps + 6) * 16 * forward)


def test_one_run(tmp_path, capsys):
    flags = ["--methods=plain,grad_l2l", "--models=mlp", "--size=8", "--channels=1", "--steps=2"]
    flags += ["--rounds=2", "--matrix=64", "--batch_size=16", "--attacker=two_layer"]
    assert mfu.main([*flags, "--attacker_width=0.03125", f"--out={tmp_path / 'mfu'}"]) == 0
    report = json.loads((tmp_path / "mfu.json").read_text())
    for row in report["rows"]:
        reached = row["flops"] / (np.median(row["ms"]) / 1e3)
        assert row["mfu"] == pytest.approx(reached / report["peak"]["flops"])
        assert 0 < row["busy"] <= 1
    assert report["command"] in (tmp_path / "mfu.md").read_text()
    assert "of the peak" in capsys.readouterr().out
    assert mfu.main(["--steps=0"]) == 2
