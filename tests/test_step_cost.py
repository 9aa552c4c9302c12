import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import step_cost
from games import SGD, SmoothAttacker, images, method_of
from l2ljax.apply import functional, initialise
from l2ljax.bilevel import init_state, make_step
from l2ljax.methods import METHODS, method_settings
from passes import PASSES, count_passes, floor, paper_ratio, write_out
from step_cost import (
    alike,
    compare,
    convolutions_in_loops,
    main,
    page_table,
    show,
    time_in_turn,
)

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = {name: alike(name, {}) for name in METHODS}


class OneConvolution(nn.Module):
    @nn.compact
    def __call__(self, x, features=False):
        h = nn.tanh(nn.Conv(4, (3, 3))(x)).mean((1, 2))
        return h if features else nn.Dense(10)(h)


def compiled_step(name):
    """Its text: only shapes go in, and nothing is computed."""
    net, method, key = OneConvolution(), method_of(name, SmoothAttacker()), jax.random.key(0)
    step = make_step(functional(net), method, SGD, SGD, eps=lambda step: 0.1)

    def start(key, x):
        return init_state(key, *initialise(net, key, x), method, SGD, SGD, x)

    state = jax.eval_shape(start, key, images()[0])
    return jax.jit(step).lower(state, images(), key).compile().as_text()


@pytest.mark.parametrize("name", METHODS)
def test_no_step_has_a_convolution_inside_a_loop_on_the_cpu(name):
    hlo = compiled_step(name)
    assert "convolution(" in hlo
    assert convolutions_in_loops(hlo) == []


def test_the_same_step_with_its_loop_kept_is_found_out(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions_in_loops(compiled_step("pgm"))


@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_a_scanned_convolution_is_found_and_an_unrolled_one_is_none(unroll, nested):
    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def loop(x, w):
        def body(x, _):
            # A branch inside the body is a computation that the body only calls.
            x = lax.cond(x.sum() > 0, convolve, lambda x, w: x, x, w) if nested else convolve(x, w)
            return x, None

        return lax.scan(body, x, length=4, unroll=unroll)[0]

    arrays = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    found = convolutions_in_loops(jax.jit(loop).lower(*arrays).compile().as_text())
    assert bool(found) == (unroll == 1)


def test_a_loop_without_convolution_beside_a_convolution_is_not_accused():
    def f(x, w):
        x = lax.fori_loop(0, 5, lambda i, x: jnp.sin(x), x)
        return lax.conv_general_dilated(x, w, (1, 1), "SAME")

    hlo = jax.jit(f).lower(jnp.ones((2, 4, 8, 8)), jnp.ones((4, 4, 3, 3))).compile().as_text()
    assert "while(" in hlo
    assert "convolution(" in hlo
    assert convolutions_in_loops(hlo) == []


def test_ratios_are_taken_within_a_round():
    times = {"plain": [10.0, 20.0, 40.0], "fgsm": [20.0, 60.0, 80.0], "grad_l2l": [30.0] * 3}
    flops = {"plain": 2e9, "fgsm": 5e9, "grad_l2l": 1e9}
    results = compare(times, flops, CONFIGS)
    assert results["plain"]["measured"]["median"] == results["plain"]["counted"] == 1
    assert results["fgsm"]["measured"] == {"min": 2, "q25": 2, "median": 2, "q75": 2.5}
    assert results["fgsm"]["ms"] == {"min": 20, "q25": 40, "median": 60, "q75": 70}
    assert results["fgsm"]["counted"] == 2.5
    assert results["fgsm"]["measured_over_counted"] == pytest.approx(0.8)
    assert results["grad_l2l"]["measured_over_counted"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("name", "ratio", "verdict"),
    [("fgsm", 1.29, "ok"), ("fgsm", 1.31, "over"), ("grad_l2l", 1.59, "ok"), ("pgm", 1.59, "over")],
)
def test_the_verdict_allows_more_with_an_attacker(name, ratio, verdict):
    results = compare({"plain": [1.0], name: [ratio]}, {"plain": 1.0, name: 1.0}, CONFIGS)
    assert results[name]["verdict"] == verdict


def test_methods_are_timed_in_turn_and_slow_ones_with_fewer_steps():
    calls = []

    def run(name, seconds):
        return lambda steps: calls.append((name, steps)) or steps * seconds

    times = time_in_turn({"a": run("a", 0.001), "b": run("b", 0.5)}, repeats=2, slice_ms=10)
    assert times == {"a": pytest.approx([1.0, 1.0]), "b": pytest.approx([500.0, 500.0])}
    assert calls[4:] == [("a", 10), ("b", 2), ("a", 10), ("b", 2)]


def test_every_method_has_its_passes():
    assert list(PASSES) == list(METHODS)


@pytest.mark.parametrize(
    ("name", "order", "text", "forwards"),
    [
        ("plain", "simultaneous", "F+B", 3),
        ("plain", "alternating", "F+B", 3),
        ("fgsm", "simultaneous", "3F+I+2B", 8),
        ("pgm", "simultaneous", "12F+10I+2B", 26),
        ("naive_l2l", "simultaneous", "F+B+f+b", 3),
        ("naive_l2l", "alternating", "2F+I+B+2f+b", 5),
        ("grad_l2l", "simultaneous", "2F+I+B+f+b", 5),
        ("grad_l2l", "alternating", "4F+3I+B+2f+b", 9),
        ("two_step_l2l", "alternating", "6F+5I+B+4f+2b", 13),
        ("multistep_l2l", "simultaneous", "4F+3I+B+3f+3b", 9),
        ("grad_l2l_trades", "simultaneous", "3F+I+2B+f+b", 8),
        ("grad_l2l_interp", "simultaneous", "4F+2I+B+f+b", 8),
        ("rnn_adv", "simultaneous", "12F+11I+B+10f+10b", 25),
        ("trades", "simultaneous", "13F+10I+2B", 27),
        ("fast_at", "simultaneous", "2F+I+B", 5),
        ("pgd2", "simultaneous", "3F+2I+B", 7),
        ("grad_align", "simultaneous", "3F+2I+B+D", 11),
        ("fast_bat", "simultaneous", "3F+2I+B+D", 11),
    ],
)
def test_passes_are_those_of_the_cost_table(name, order, text, forwards):
    learns = "order" in method_settings(name)  # the others have one order alone
    passes = count_passes(alike(name, {"order": order} if learns else {}))
    assert write_out(passes) == text
    assert floor(passes) == pytest.approx(forwards / 3)


def test_the_papers_ratio_is_quoted_only_where_the_paper_has_one():
    assert paper_ratio(alike("grad_l2l", {"attacker": "slim"})) == 3.28
    assert paper_ratio(alike("grad_l2l", {"attacker": "two_layer"})) is None
    assert paper_ratio(alike("pgm", {})) == 11.49
    assert paper_ratio(alike("pgm", {"inner_steps": 7})) is None


TINY = ["--model=mlp", "--attacker=two_layer", "--attacker_width=0.02", "--batch_size=16"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("cost") / "new" / "cost"
    fast = ["--repeats=2", "--slice_ms=0.1", "--methods=grad_l2l"]
    assert main([*TINY, *fast, f"--out={out}"]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert page_table(report["methods"]) in out.with_suffix(".md").read_text()
    return report


def test_the_report_names_methods_machine_and_settings(report):
    assert list(report["methods"]) == ["plain", "grad_l2l"]
    assert report["options"]["batch_size"] == 16
    assert {"jax", "device", "cores", "commit"} <= set(report["made_with"])
    row = report["methods"]["grad_l2l"]
    assert row["config"]["attacker"] == "two_layer"
    assert row["convolutions_in_loops"] == []
    assert row["ms"]["q25"] <= row["ms"]["median"] <= row["ms"]["q75"]
    flops = {name: r["flops"] for name, r in report["methods"].items()}
    assert 0 < flops["plain"] < flops["grad_l2l"]


def test_the_table_has_a_line_for_every_method(report):
    lines = show(report["methods"]).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["plain", "grad_l2l"]
    assert {"ok", "over"} & set(lines[2].split())


def test_a_process_of_its_own_counts_the_same(report):
    flags = dict(flag[2:].split("=") for flag in TINY) | {"methods": "grad_l2l"}
    counted = step_cost.count_on_cpu(flags)
    assert counted == {name: row["flops"] for name, row in report["methods"].items()}


def test_the_page_of_methods_has_the_measured_table_and_every_method():
    page = (ROOT / "docs" / "methods.md").read_text()
    measured = json.loads((ROOT / "results" / "step_cost.json").read_text())["methods"]
    assert page_table(measured) in page
    for name in METHODS:
        rows = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert len(rows) >= 3, f"{name}: what it is, where it comes from, what it costs"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--methods=grad_l2"], "did you mean 'grad_l2l'"),
        (["--repeats=0"], "--repeats=0 must be positive"),
        (["--slice_ms=-1"], "--slice_ms=-1.0 must be positive"),
        (["--out=/proc/none/cost"], "--out=/proc/none/cost cannot be written"),
        (["--inner_steps=3"], "unknown flag"),
    ],
)
def test_bad_flags_get_one_line_before_anything_is_compiled(flags, line, capsys):
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
