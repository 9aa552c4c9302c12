"""Accuracy against eps and against steps: the points are evaluate's, and the picture shows them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks import parse, pgd
from l2ljax.evaluation.accuracy import robust
from l2ljax.evaluation.results import RATIOS, STEPS, trace_curves, wilson

EPS, KEY = 0.06, jax.random.key(0)


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def net(seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    theta = {"a": jax.random.normal(a, (16, 12)), "b": jax.random.normal(b, (12, 3))}
    return Partial(logits, theta)


def images(n=60):
    """Images that the net gets right, but for every tenth."""
    x = np.asarray(jax.random.uniform(jax.random.key(9), (n, 4, 4, 1)))
    y = np.array(net()(x).argmax(-1))
    y[::10] = (y[::10] + 1) % 3
    return x, y


@pytest.fixture(scope="module")
def found():
    return trace_curves(KEY, net(), *images(), eps=EPS, batch_size=32)


def bits(flags):
    return "".join("1" if flag else "0" for flag in flags)


def stood(name, eps=EPS):
    x, y = images()
    return bits(robust(KEY, net(), x, y, parse(name), eps=eps, batch_size=60))


def test_a_net_without_a_finite_gradient_is_told():
    def slopeless(x):
        return net()(x) + jnp.sqrt(0 * x.sum((1, 2, 3)))[:, None]

    x, y = images(8)
    told = trace_curves(KEY, slopeless, x, y, eps=EPS, batch_size=8, ratios=(1.0,), steps=(1,))
    assert any("gradient that is NaN or infinite" in line for line in told["warnings"])


def test_the_points_at_eps_are_those_of_evaluate(found):
    for name, points in found["against_eps"].items():
        assert [point["eps"] for point in points] == pytest.approx([r * EPS for r in RATIOS])
        (point,) = [point for point in points if point["eps"] == EPS]
        assert point["robust"] == stood(name)
        assert points[-1]["robust"] == stood(name, 2 * EPS)
    assert found["warnings"] == []
    by_steps = {point["steps"]: point["robust"] for point in found["against_steps"]}
    assert tuple(by_steps) == STEPS
    for t in (1, 2, 5, 10):
        assert by_steps[t] == stood(f"pgm{t}")


def test_radius_zero_is_the_clean_accuracy(found):
    for points in found["against_eps"].values():
        assert points[0]["eps"] == 0 and points[0]["robust"] == stood("clean")
        assert points[0]["accuracy"] == 0.9


def test_more_steps_go_on_from_where_fewer_ended(found):
    x, y = map(jnp.asarray, images())
    right, delta, done = np.asarray(net()(x).argmax(-1) == y), jnp.zeros_like(x), 0
    for point in found["against_steps"]:
        how = {"steps": point["steps"] - done, "step_size": found["step_size"], "start": delta}
        done, attacked = point["steps"], pgd(KEY, net(), x, y, eps=EPS, loss="ce", **how)
        delta = attacked - x
        assert point["robust"] == bits(right & np.asarray(net()(attacked).argmax(-1) == y))


def test_the_numbers_are_shares_of_the_images_and_json(found):
    assert json.loads(json.dumps(found)) == found
    points = [*found["against_steps"], *(p for ps in found["against_eps"].values() for p in ps)]
    assert all(p["accuracy"] == pytest.approx(p["robust"].count("1") / 60) for p in points)
    assert found["images"] == 60 and found["eps"] == EPS
    fgsm, pgm = (found["against_eps"][name] for name in ("fgsm", "pgm100"))
    assert pgm[-1]["accuracy"] < pgm[4]["accuracy"] < 0.9
    assert sum(p["accuracy"] for p in pgm) <= sum(p["accuracy"] for p in fgsm)


def test_no_radius_leaves_the_box_but_in_l2_it_may():
    small = {"steps": (1,), "ratios": (0, 1, 1.25, 1.5, 2), "batch_size": 60}
    ticks = []
    linf = trace_curves(
        KEY, net(), *images(), eps=0.8, progress=lambda *done: ticks.append(done), **small
    )
    assert [p["eps"] for p in linf["against_eps"]["fgsm"]] == [0, 0.8, 1.0]
    assert ticks == [(i, 7) for i in range(1, 8)]
    l2 = trace_curves(KEY, net(), *images(), eps=0.8, norm="l2", **small)
    assert [p["eps"] for p in l2["against_eps"]["fgsm"]] == pytest.approx([0, 0.8, 1, 1.2, 1.6])
    x, y = images()
    at = bits(robust(KEY, net(), x, y, parse("pgm100"), eps=0.8, batch_size=60, norm="l2"))
    assert l2["against_eps"]["pgm100"][1]["robust"] == at


@pytest.fixture
def kept(monkeypatch):
    """Every figure that is saved, to look inside."""
    pytest.importorskip("matplotlib")
    from l2ljax.figures import evaluation as drawing

    figures, save = [], drawing.save
    monkeypatch.setattr(
        drawing, "save", lambda figure, path: figures.append(figure) or save(figure, path)
    )
    return figures


def test_the_picture_has_every_point_and_its_wilson_band(found, tmp_path, kept):
    from l2ljax.figures import draw_robustness
    from test_figures import check_layout, check_png

    path = tmp_path / "new" / "robustness.png"
    assert draw_robustness(path, {"net": found}, "net on images") == path
    check_png(path)
    check_layout(kept[0])
    left, right = kept[0].axes
    for line, points in zip(left.lines, found["against_eps"].values(), strict=False):
        np.testing.assert_allclose(line.get_xdata(), [p["eps"] for p in points])
        np.testing.assert_allclose(line.get_ydata(), [p["accuracy"] for p in points])
    shares = [p["accuracy"] for p in found["against_steps"]]
    np.testing.assert_allclose(right.lines[0].get_ydata(), shares)
    np.testing.assert_array_equal(right.lines[0].get_xdata(), STEPS)
    (pgm100,) = [p for p in found["against_eps"]["pgm100"] if p["eps"] == EPS]
    assert [*right.lines[1].get_xdata()] == [100]
    assert [*right.lines[1].get_ydata()] == [pgm100["accuracy"]]
    corners = right.collections[0].get_paths()[0].vertices
    for t, share in zip(STEPS, shares, strict=True):
        heights = corners[corners[:, 0] == t][:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], wilson(share, 60), atol=1e-9)


def test_several_nets_have_a_colour_each_and_a_radius_of_their_own(found, tmp_path, kept):
    from l2ljax.figures import draw_robustness
    from test_figures import check_layout, check_png

    other = trace_curves(
        KEY, net(1), *images(), eps=0.1, batch_size=60, ratios=(0, 1), steps=(1, 10)
    )
    check_png(draw_robustness(tmp_path / "all.png", {"one": found, "other": other}, "two nets"))
    check_layout(kept[0])
    left, right = kept[0].axes
    assert len({line.get_color() for line in (*left.lines, *right.lines)}) == 2
    (legend,) = kept[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]
    assert "ε" not in right.get_title("left")
