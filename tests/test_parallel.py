"""One device, pmap, sharded jit and two processes compute the same; and lay_out's refusals."""

import jax
import numpy as np
import pytest

from l2ljax.ball import batch_rows
from l2ljax.parallel import Layout, lay_out
from l2ljax.runs.feed import cuts, even
from processes import launch, launch_together

METHODS = ("plain", "pgm", "grad_l2l")

HIDDEN = ("['shortcut']['bias']", "['conv1']['bias']", "['conv2']['bias']", "['deconv']['bias']")
"""Biases before a BatchNorm: their true gradient is zero."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")

    def measure(kind, width, processes=1):
        out = folder / f"{kind}-{width}-{processes}.npz"
        if not out.exists():
            given, script = (out, kind, width), "tests/on_devices.py"
            if processes == 1:
                started = [launch(script, *given, devices=8)]
            else:
                each = {"processes": processes, "devices": 8 // processes}
                started = launch_together(script, *given, **each)
            said = [process.communicate()[1] for process in started]
            assert not any(process.returncode for process in started), "\n".join(said)
        return dict(np.load(out))

    return measure


@pytest.mark.parametrize(
    "width, kind, processes",
    [("f32", "pmap", 1), ("f32", "sharding", 1)]
    + [("f64", "pmap", 1), ("f64", "sharding", 1), ("f64", "pmap", 2)],
)
def test_eight_devices_match_one(measured, width, kind, processes):
    one, many = measured("none", width), measured(kind, width, processes)
    assert one.keys() == many.keys() and any("/phi" in name for name in one)
    for name in one:
        if name.endswith("/losses"):
            bound = 1e-9 if width == "f64" else 1e-3 if name.startswith("pgm") else 1e-4
            assert len(one[name]) == {"f32": 5, "f64": 20}[width]
            np.testing.assert_allclose(many[name], one[name], rtol=0, atol=bound, err_msg=name)
        elif name.endswith("/programs"):
            assert one[name] == many[name] == 1
        elif not name.endswith(HIDDEN):
            bound = {"f32": 1e-5, "f64": 1e-9}[width] * np.abs(one[name]).max()
            np.testing.assert_allclose(many[name], one[name], rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_rows_of_a_batch_are_those_of_one_device(parts):
    split = jax.vmap(lambda _: batch_rows(6, "d", parts), axis_name="d", axis_size=4)
    rows = np.asarray(split(np.zeros(4))).reshape(4, parts, -1)
    np.testing.assert_array_equal(rows.swapaxes(0, 1).reshape(-1), np.arange(24))


def test_chunks_never_cross_an_epoch_and_end_at_the_same_steps():
    assert (even(351, 50), even(353, 50), even(8, 50), even(10, 1)) == (39, 50, 8, 1)
    assert list(cuts(0, 10, 4)) == [(0, 4), (4, 4), (8, 2)]
    assert list(cuts(5, 10, 4)) == [(5, 3), (8, 2)]
    assert list(cuts(10, 10, 4)) == []


def test_lay_out_refuses_what_does_not_divide():
    assert lay_out(None, batch_size=33) == Layout("none")
    with pytest.raises(ValueError, match="33 images does not divide over 1 devices x 2.*32 or 34"):
        lay_out("sharding", batch_size=33, accumulate=2)
    with pytest.raises(ValueError, match="did you mean 'pmap'"):
        lay_out("pmapp", batch_size=32)


def test_the_size_of_a_part_has_to_be_named_when_an_epoch_is_dealt():
    """With accumulate it is no batch's size; dealt by that, an image gets another one's noise."""
    with pytest.raises(TypeError):
        Layout("none").deal(np.arange(8), 8)  # pyright: ignore
