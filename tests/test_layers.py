"""The benchmark of single convolutions: which it finds, that its passes are right, and one run."""

import json

import jax
import numpy as np
import pytest

import layers
from layers import Layer

GIVEN = {"model": "wrn-10-1", "attacker": "wide", "attacker_width": 0.0625, "size": 8}


def test_every_convolution_of_both_nets_is_found():
    found = layers.layers_of({**GIVEN, "attacker": "", "channels": 1})
    assert found[Layer(8, 1, 16, 3, 1)] == 1
    assert found[Layer(8, 16, 16, 3, 1)] == 2
    assert found[Layer(4, 32, 64, 1, 2)] == 1
    attacker = layers.layers_of({**GIVEN, "model": "mlp", "channels": 1})
    assert {layer.channels for layer in attacker} >= {2, 4}
    assert layers.layers_of({**GIVEN, "model": "mlp", "attacker": "", "channels": 1}) == {}


@pytest.mark.parametrize(
    "layer, form",
    [
        (Layer(8, 16, 16, 3, 1), "lax"),
        (Layer(32, 3, 16, 3, 1), "patches"),
        (Layer(8, 16, 32, 1, 2), "patches"),
        (Layer(2, 16, 16, 3, 1), "patches"),
    ],
)
def test_ours_is_what_the_package_takes(layer, form):
    assert layers.form(layer) == form


@pytest.mark.parametrize(
    "layer", [Layer(5, 4, 3, 3, 2), Layer(4, 4, 3, 1, 2), Layer(4, 2, 3, 3, 1)]
)
def test_both_forms_of_every_pass_agree(layer):
    sides = [layers.jax_passes(layer, side, batch=2) for side in ("lax", "patches")]
    for a, b in zip(*sides, strict=True):
        np.testing.assert_allclose(a(), b(), atol=1e-4, rtol=1e-4)
    x = jax.numpy.ones((2, layer.size, layer.size, layer.channels))
    assert [np.shape(run()) for run in sides[0]] == [
        (2, layer.out, layer.out, layer.features),
        x.shape,
        (layer.kernel, layer.kernel, layer.channels, layer.features),
    ]


def test_the_sum_weighs_a_layer_with_how_often_it_stands_there():
    rows = [
        {"layer": "a", "times": 2, "ours": "lax", "lax": [1.0, 2.0, 3.0], "patches": [9.0] * 3},
        {"layer": "b", "times": 1, "ours": "patches", "lax": [5.0] * 3, "patches": [1.0] * 3},
    ]
    *_, every, ours = layers.table(rows, ("lax", "patches"))
    assert every[3:] == ["7.0 / 19.0", "9.0 / 19.0", "11.0 / 19.0"]
    assert ours[3:] == ["3.0", "5.0", "7.0"]


def test_one_run(tmp_path, capsys):
    flags = ["--model=small_cnn", "--attacker=", "--size=8", "--channels=1", "--batch_size=2"]
    flags += ["--rounds=1", "--slice_ms=1", "--threads=1", f"--out={tmp_path / 'layers'}"]
    assert layers.main(flags) == 0
    report = json.loads((tmp_path / "layers.json").read_text())
    found = layers.layers_of({**GIVEN, "model": "small_cnn", "attacker": "", "channels": 1})
    assert {row["layer"]: row["times"] for row in report["rows"]} == {
        str(layer): times for layer, times in found.items()
    }
    assert all(ms > 0 for row in report["rows"] for ms in row["lax"] + row["patches"])
    assert report["command"] in (tmp_path / "layers.md").read_text()
    assert "all, as ours" in capsys.readouterr().out
    assert layers.main(["--rounds=0"]) == 2
