"""One device, pmap, sharded jit and two processes compute the same; and lay_out's refusals."""

import functools
import re

import chex
import jax
import numpy as np
import optax
import pytest

from games import EPS, images, method_of
from l2ljax.apply import functional, initialise
from l2ljax.ball import batch_rows
from l2ljax.bilevel import init_state, make_step
from l2ljax.devices import AXIS
from l2ljax.models import make_classifier
from l2ljax.parallel import ONE_DEVICE, Layout, lay_out
from l2ljax.runs.feed import cuts, even
from on_devices import STEPS
from processes import launch, launch_together

HIDDEN = ("['shortcut']['bias']", "['conv1']['bias']", "['conv2']['bias']", "['deconv']['bias']")
"""Biases before a BatchNorm: their true gradient is zero."""

LAYOUTS, BOTH = ("none", "pmap", "sharding"), ("pgm", "grad_l2l")
ASKED = {
    ("f64", 1): [(kind, method) for kind in LAYOUTS for method in BOTH],
    ("f32", 1): [(kind, "grad_l2l") for kind in LAYOUTS],
    ("f64", 2): [("pmap", "pgm"), ("sharding", "grad_l2l")],
}
"""What is measured of each width and number of processes.

Two processes compile every program twice. So each layout has one method there, and pmap, where each
process picks the rows of its devices, has the one whose batch comes in parts.
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Of a width and a number of processes: what each layout has found, on eight devices in all."""
    folder = tmp_path_factory.mktemp("devices")

    @functools.cache
    def measure(width, processes=1):
        out = folder / f"{width}-{processes}"
        asked = ",".join(map(":".join, ASKED[width, processes]))
        given = "tests/on_devices.py", out, width, asked
        if processes == 1:
            started = [launch(*given, devices=8)]
        else:
            started = launch_together(*given, processes=processes, devices=8 // processes)
        said = [process.communicate()[1] for process in started]
        assert not any(process.returncode for process in started), "\n".join(said)
        found = dict(np.load(f"{out}.npz"))

        def of(kind, method):
            start = f"{kind}/{method}/"
            return {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}

        return of

    return measure


@pytest.mark.parametrize(
    "width, processes, kind, method",
    [(*key, *one) for key, asked in ASKED.items() for one in asked if one[0] != "none"],
)
def test_eight_devices_match_one(measured, width, processes, kind, method):
    one, many = measured(width)("none", method), measured(width, processes)(kind, method)
    parts = {"losses", "programs", "opt_theta", "theta_stats"}
    parts |= {"opt_phi", "phi_stats"} if method == "grad_l2l" else set()
    assert {re.split(r"\W", name)[0] for name in one} == parts
    assert one.keys() == many.keys()
    for name in one:
        if name == "losses":
            assert len(one[name]) == STEPS[width]
            bound = {"f32": 1e-4, "f64": 1e-9}[width]
        elif name == "programs":
            bound = 0
            assert one[name] == 1
        elif name.startswith("opt") and name.endswith(HIDDEN):
            continue
        else:
            assert np.abs(one[name]).max() > 0
            bound = {"f32": 1e-5, "f64": 1e-9}[width] * np.abs(one[name]).max()
        np.testing.assert_allclose(many[name], one[name], rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_rows_of_a_batch_are_those_of_one_device(parts):
    split = jax.vmap(lambda _: batch_rows(6, parts), axis_name=AXIS, axis_size=4)
    rows = np.asarray(split(np.zeros(4))).reshape(4, parts, -1)
    np.testing.assert_array_equal(rows.swapaxes(0, 1).reshape(-1), np.arange(24))
    np.testing.assert_array_equal(batch_rows(24, parts), np.arange(24))


def test_chunks_never_cross_an_epoch_and_end_at_the_same_steps():
    assert (even(351, 50), even(353, 50), even(8, 50), even(10, 1)) == (39, 50, 8, 1)
    assert list(cuts(0, 10, 4)) == [(0, 4), (4, 4), (8, 2)]
    assert list(cuts(5, 10, 4)) == [(5, 3), (8, 2)]
    assert list(cuts(10, 10, 4)) == []


def test_lay_out_refuses_what_does_not_divide():
    assert lay_out(None, batch_size=33) == ONE_DEVICE
    with pytest.raises(ValueError, match="33 images does not divide over 1 devices x 2.*32 or 34"):
        lay_out("sharding", batch_size=33, accumulate=2)
    with pytest.raises(ValueError, match="did you mean 'pmap'"):
        lay_out("pmapp", batch_size=32)


def test_the_size_of_a_part_has_to_be_named_when_an_epoch_is_dealt():
    """With accumulate it is no batch's size; dealt by that, an image gets another one's noise."""
    with pytest.raises(TypeError):
        ONE_DEVICE.rows_of_devices(np.arange(8), 8)  # pyright: ignore


def test_a_layout_says_what_it_is():
    said = [Layout(kind).describe() for kind in ("none", "sharding", "pmap")]
    assert said == [
        "one CPU device",
        "the batch sharded over 1 CPU device",
        "pmap over 1 CPU device",
    ]


@pytest.mark.parametrize("kind", ["none", "sharding"])
def test_without_jit_a_step_is_python_that_runs_line_by_line(kind):
    net, key, layout = make_classifier("mlp", 10, width=1 / 16), jax.random.key(0), Layout(kind)
    (x, y), sgd, method = images(), optax.sgd(0.1), method_of("fgsm")
    theta, stats = initialise(net, key, x)
    state = init_state(key, theta, stats, method, sgd, sgd, x)
    step = make_step(functional(net), method, sgd, sgd, eps=EPS, shard_batch=layout.shard_batch)
    expected, _ = jax.jit(step)(state, (x, y), key)
    with jax.disable_jit():
        chex.assert_trees_all_close(initialise(net, key, x), (theta, stats), rtol=1e-6)
        arguments = layout.replicate((state, (x, y), key))
        program = layout.compile(step, *arguments)
        assert program is step
        after = layout.unreplicate(program(*arguments)[0])
    chex.assert_trees_all_close(after.theta, expected.theta, rtol=1e-3, atol=1e-5)
