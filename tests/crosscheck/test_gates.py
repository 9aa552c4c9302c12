"""The arithmetic of the gates; needs neither torch nor the official attacks."""

import numpy as np
import pytest

from official import gates
from official.kept import Kept, Unfinished
from official.page import page


def test_the_extra_is_installed_or_the_rest_of_this_folder_is_left_out():
    for name in ("torch", "pyautoattack", "foolbox"):
        pytest.importorskip(name, reason="pip install -e '.[crosscheck]'")


def flags(n, *fallen):
    stands = np.ones(n, bool)
    stands[list(fallen)] = False
    return stands


def test_no_disagreement_at_all_still_leaves_a_bound_above_zero():
    gap, bound = gates.upper_bound(flags(2000, 1), flags(2000, 1))
    assert gap == 0 and 0 < bound < 0.001


def test_the_bound_is_agresti_and_mins():
    ours, official = flags(100, 0), flags(100, 1, 2, 3)
    gap, bound = gates.upper_bound(ours, official)
    # 3.5 and 1.5 of 102: (2 + 1.96 sqrt(5 - 4 / 102)) / 102
    assert gap == pytest.approx(0.02)
    assert bound == pytest.approx((2 + 1.959964 * np.sqrt(5 - 4 / 102)) / 102)


def test_the_bound_sees_only_that_ours_stands_where_the_official_fell():
    weak, strong = flags(2000), flags(2000, *range(30))
    assert gates.upper_bound(weak, strong)[1] > 0.01
    assert gates.upper_bound(strong, weak)[1] < 0


def test_disagreement_is_the_mean_over_pairs():
    runs = np.stack([flags(10), flags(10, 0), flags(10, 0, 1)])
    assert gates.among_themselves(runs) == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    assert gates.from_them(flags(10, 0), runs) == pytest.approx((0.1 + 0 + 0.1) / 3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_leaving_the_ball_the_box_or_the_numbers_is_unlawful(norm):
    x = np.full((4, 2, 2, 1), 0.95, np.float32)
    x_adv = x.copy()
    x_adv[1, 0, 0, 0] -= 0.3
    x_adv[2, 0, 0, 0] = 1.01
    x_adv[3, 0, 0, 0] = np.nan
    assert gates.unlawful(x, x, 0.1, norm) == 0
    assert gates.unlawful(x, x_adv, 0.1, norm) == 3
    assert gates.unlawful(x, x + np.float32(2e-6), 0.0, norm) == 4


def report(**changes):
    """A report without a fault, or with those given."""
    parity = {
        "net": "a",
        "via": "twin",
        "images": 256,
        "logits": 1e-6,
        "argmax_equal": 1.0,
        "gradients_median": 1e-8,
        "gradients_kinked": 0.0,
    }
    alone = {
        "net": "a",
        "norm": "linf",
        "eps": 0.1,
        "attack": "square",
        "via": "twin",
        "images": 400,
        "ours": 0.5,
        "official": 0.5,
        "equal": 0.995,
        "only_ours": 1,
        "only_official": 1,
        "adversarial": 200,
        "unlawful": 0,
        "not_both": 0,
    }
    bits = "10" * 1000
    free = {
        "net": "a",
        "norm": "linf",
        "eps": 0.1,
        "images": 2000,
        "ours": dict.fromkeys(["clean", "apgd-ce", "apgd-t", "fab-t", "square"], 0.5),
        "official": [{"clean": 0.5, "apgd-ce": 0.5}] * 2,
        "flags": {"ours": changes.pop("ours", bits), "official": [bits, bits]},
        "adversarial": 1000,
        "unlawful": 0,
        "not_both": 0,
    }
    for part in (parity, alone):
        part.update({name: value for name, value in changes.items() if name in part})
    return {
        "parity": [parity],
        "without_chance": [alone],
        "cascade": [free],
        "judged": gates.judge_cascades([free]),
        "unfinished": [],
    }


def test_a_report_without_a_fault_misses_nothing():
    assert gates.misses(report()) == []


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"logits": 2e-4}, "logits"),
        ({"argmax_equal": 0.99}, "logits"),
        ({"gradients_kinked": 0.1}, "gradients"),
        ({"equal": 0.9949}, "flags equal"),
        ({"unlawful": 1}, "unlawful"),
        ({"not_both": 1}, "not both"),
        ({"ours": "1" * 60 + "10" * 970}, "differs on"),
        ({"ours": "1" * 40 + "10" * 980}, "the bound is"),
    ],
)
def test_every_gate_that_is_missed_is_named(changes, word):
    assert any(word in line for line in gates.misses(report(**changes)))


def test_too_few_images_decide_nothing():
    small = report()
    small["judged"][-1]["images"] = 1999
    assert gates.misses(small) == ["all, cascade: 1999 images, 2000 are needed"]


def test_the_page_says_what_was_missed():
    made = {"device": "1 x CPU", "cores": "2", "jax": "0", "torch": "2", "commit": "c"}
    rest = {
        "made_with": made | {"pyautoattack": "0.2.0"},
        "options": {"budget": [100, 100, 9, 5000], "seeds": 2},
        "nets": {"a": {"model": "wrn-10-1", "images": 2000, "eps": {"linf": 0.1}}},
        "command": "python benchmarks/agreement.py",
    }
    assert "Every gate is met" in page(report() | rest | {"misses": []})
    assert "- one gate" in page(report() | rest | {"misses": ["one gate"]})


def test_a_finished_part_is_not_made_again_and_another_key_makes_another(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x_adv": np.arange(3)}

    kept = Kept(tmp_path)
    first = kept.part("a part", ["k", 0.1], make)
    again = Kept(tmp_path).part("a part", ["k", 0.1], make)
    kept.part("a part", ["k", 0.2], make)
    assert len(made) == 2 and (again["x_adv"] == first["x_adv"]).all()
    assert again["seconds"] == first["seconds"]


def test_what_is_not_finished_is_not_met(tmp_path):
    with pytest.raises(Unfinished, match="digits pgm linf square"):
        Kept(tmp_path, only=True).part("digits pgm linf square", [], dict)
    lines = gates.misses(report() | {"unfinished": ["digits pgm linf square"]})
    assert lines == ["not measured yet: digits pgm linf square and what follows it"]
    assert gates.judge_cascades([]) == []
