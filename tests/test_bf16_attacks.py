"""What evaluate.py reports of a net trained in bfloat16 is what float32 says; the page shows it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from bf16_attacks import ATTACKS, LIMIT, Nets, as_evaluated, by_itself, difference, in_bf16, main
from l2ljax.attacks import Budget, parse

PAGE = pathlib.Path(__file__).parent.parent / "results" / "bf16_attacks.json"
KEY = jax.random.key(0)


def logits(w, x):
    return ((x.reshape(len(x), -1) - 0.5).astype(w.dtype) @ w).astype(jnp.float32)


def small(n=60):
    w = jax.random.normal(KEY, (16, 10))
    x = np.array(jax.random.uniform(jax.random.key(1), (n, 4, 4, 1)))
    f, rough = Partial(logits, w), Partial(logits, w.astype(jnp.bfloat16))
    return Nets(f, rough, x, np.array(f(x).argmax(-1)), 0.02, 40)


def test_the_page_shows_that_nothing_is_lost_that_matters():
    rows = {row["attack"]: row for row in json.loads(PAGE.read_text())["rows"]}
    assert tuple(rows) == ATTACKS
    assert max(row["lost"]["evaluate.py"][2] for row in rows.values()) <= LIMIT
    assert max(row["lost"]["bfloat16"][2] for row in rows.values()) > LIMIT, "the reason"


def test_the_cascade_and_the_attack_by_itself_leave_the_same_images():
    nets, budget = small(), Budget(apgd_steps=6, targets=2)
    for name in ("pgm3x2", "apgd-t"):
        attack = parse(name, budget=budget)
        alone = by_itself(KEY, nets, attack)
        assert 0 < alone.sum() < len(alone)
        np.testing.assert_array_equal(as_evaluated(KEY, nets, attack), alone)


def test_a_search_in_bfloat16_asks_the_bfloat16_net_and_float32_judges():
    nets, asked = small(), []

    def counted(w, x):
        asked.append(x.shape)
        return logits(w, x)

    nets = nets._replace(bf16=Partial(counted, nets.bf16.args[0]))
    clean = in_bf16(KEY, nets, parse("clean"))
    assert clean.all() and asked == []
    stood = in_bf16(KEY, nets, parse("pgm3"))
    assert asked and not stood.all()


def test_a_difference_is_paired_by_image():
    a, b = np.array([[1, 1, 0, 0]] * 2, bool), np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool)
    gap, low, high = difference(a, b, 2000)
    assert gap == 12.5 and low == 0 and 25 <= high <= 50
    assert difference(a, a, 100) == [0, 0, 0]


def test_a_run_is_needed(capsys):
    assert main([]) == 2 and "--workdir" in capsys.readouterr().err
    assert main(["--workdir=x", "--seeds=0"]) == 2 and "--seeds=0" in capsys.readouterr().err
