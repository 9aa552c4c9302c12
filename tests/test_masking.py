"""Every negative control is flagged by the check meant for it; honest nets pass them all."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from games import SmoothAttacker
from l2ljax.attacker_input import image_and_gradient
from l2ljax.attacks import Budget, pgd
from l2ljax.ball import box, project, scale
from l2ljax.data import load
from l2ljax.losses import cross_entropy
from l2ljax.masking import (
    CHECKS,
    LIMITS,
    Check,
    Limit,
    as_attack,
    examine,
    loss_surface,
    make_check,
    make_subject,
    train_response,
    worst,
)
from l2ljax.masking.attackers import best_response, own_attacker, transfer
from l2ljax.masking.checks import (
    batch_dependence,
    black_box,
    large_radius,
    logit_scale,
    more_steps,
    one_step,
    other_loss,
    overfitted,
    randomised,
    zero_gradient,
)
from l2ljax.solvers import l2l
from masked_models import WRAPPERS, WithDropout, in_batch_mode
from masking_page import choose, halves, written

EPS = 0.12
KEY = jax.random.key(0)
SMALL = Budget(apgd_steps=15, targets=2, fab_steps=5, square_queries=200)
CHECK = {check.__name__: check for check in CHECKS}


def logits(theta, x):
    h = jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ theta["a"] + theta["c"])
    return h @ theta["b"]


DIGITS = load("digits")
X, Y = np.asarray(scale(jnp.asarray(DIGITS.x_test[:60]))), DIGITS.y_test[:60]


def train(seed, steps, hidden=64):
    """A net that has played against PGM of so many steps; none: a Plain net."""
    a, b, draws = jax.random.split(jax.random.key(seed), 3)
    theta = {
        "a": jax.random.normal(a, (64, hidden)) / 8,
        "b": jax.random.normal(b, (hidden, 10)) / 8,
        "c": jnp.zeros(hidden),
    }
    tx, x_all, y_all = optax.adam(0.005), scale(jnp.asarray(DIGITS.x_train)), DIGITS.y_train

    def loss(theta, x, y):
        return cross_entropy(logits(theta, x), y).mean()

    def step(carry, key):
        theta, opt = carry
        rows = jax.random.randint(key, (128,), 0, len(x_all))
        x, y = x_all[rows], jnp.asarray(y_all)[rows]
        delta = jnp.zeros_like(x)
        for _ in range(steps):
            u = jax.grad(loss, 1)(theta, x + delta, y)
            delta = project(delta + EPS / 2 * jnp.sign(u), EPS)
        updates, opt = tx.update(jax.grad(loss)(theta, x + box(x, delta), y), opt)
        return (optax.apply_updates(theta, updates), opt), None

    draws = jax.random.split(draws, 400)
    return jax.lax.scan(step, (theta, tx.init(theta)), draws)[0][0]


@pytest.fixture(scope="module")
def net():
    return Partial(logits, jax.jit(train, static_argnums=(0, 1))(0, 4))


@pytest.fixture(scope="module")
def plain():
    return Partial(logits, jax.jit(train, static_argnums=(0, 1))(1, 0))


def judged(f, x=X, y=Y, **changes):
    settings = {"eps": EPS, "batch_size": 40, "budget": SMALL}
    return make_subject(KEY, f, x, y, **settings | changes)


@pytest.mark.parametrize("name", ["net", "plain"])
def test_an_honest_net_passes_every_check_however_weak(name, request):
    f = request.getfixturevalue(name)
    s = judged(f)
    assert s.accuracy("clean") > 90 and (s.accuracy("pgm10") > 50) == (name == "net")
    other = request.getfixturevalue("plain" if name == "net" else "net")
    seen = []
    checks = examine(s, siblings=[other], attacker=half_way, on_check=seen.append)
    assert [check.name for check in checks] == [*CHECK, "transfer", "own_attacker"]
    assert {check.name: check.why for check in checks if check.verdict != "pass"} == {}
    assert worst(checks) == "pass" and seen == checks


def half_way(rng, f, x, y, *, eps, norm):
    return pgd(rng, f, x, y, eps=eps, steps=1, step_size=eps / 2, start="zero", loss="ce")


MEANT = {
    "killed_gradient": "zero_gradient",
    "softmax_outputs": "probabilities",
    "noise": "randomised",
    "quantised_input": "zero_gradient",
    "large_logits": "logit_scale",
    "three_classes": "few_classes",
    "shattered": "shattered",
}


@pytest.mark.parametrize("control", MEANT)
def test_a_negative_control_is_flagged_by_the_check_meant_for_it(control, net):
    three = Y < 3
    x, y = (X[three], Y[three]) if control == "three_classes" else (X, Y)
    check = CHECK[MEANT[control]](judged(WRAPPERS[control](net), x, y))
    assert check.verdict == ("suspect" if control == "three_classes" else "masked"), check
    assert check.number > check.threshold
    assert CHECK[MEANT[control]](judged(net, x, y)).verdict == "pass"


def test_every_wrapper_is_a_negative_control():
    assert set(MEANT) == set(WRAPPERS)


def normed(theta, stats, x, mode, rng=None):
    """A net with one BatchNorm in `types.Apply`'s form; its running mean is 0.5."""
    return logits(theta, x if mode == "eval" else x - x.mean(0) + 0.5), stats


def test_batchnorm_in_batch_mode_depends_on_the_batch(net):
    f = in_batch_mode(normed, *net.args, {})
    assert batch_dependence(judged(f)).verdict == "masked"
    assert batch_dependence(judged(net)).verdict == "pass"


def dropped(theta, stats, x, mode, rng=None):
    """A net with dropout in `types.Apply`'s form."""
    keep = jax.random.bernoulli(rng, 0.7, x.shape)
    return logits(theta, jnp.where(keep, x, 0.5)), stats


def test_dropout_left_on_is_random_and_with_one_key_it_depends_on_the_place(net):
    (theta,) = net.args
    assert randomised(judged(WithDropout(dropped, theta, {}))).verdict == "masked"
    fixed = judged(lambda x: dropped(theta, {}, x, "eval", KEY)[0])
    assert randomised(fixed).verdict == "pass"
    assert batch_dependence(fixed).verdict == "masked"


@pytest.mark.parametrize("check", [transfer, black_box, large_radius, own_attacker])
def test_a_killed_gradient_is_seen_from_outside_too(check, net):
    s = judged(WRAPPERS["killed_gradient"](net))

    def attack(rng, f, x, y, *, eps, norm):  # what a phi that knows the net inside would find
        return pgd(rng, net, x, y, eps=eps, steps=9, step_size=eps / 3, start="zero", loss="ce")

    more = {transfer: [[net]], own_attacker: [attack]}
    assert check(s, *more.get(check, [])).verdict == "masked"
    assert check(judged(net), *more.get(check, [])).verdict == "pass"


def test_saturated_logits_hide_the_net_from_cross_entropy_and_not_from_the_margin(net):
    s = judged(WRAPPERS["large_logits"](net))
    assert other_loss(s).verdict == "masked" and zero_gradient(s).verdict == "pass"
    assert logit_scale(judged(WRAPPERS["killed_gradient"](net))).number == 0


def along(shape):
    """Two classes, and a margin that is `shape` of the mean pixel's way from 0.5, in eps."""

    def f(x):
        right = shape((x.reshape(len(x), -1).mean(-1) - 0.5) / EPS)
        return jnp.stack([right, -right], axis=-1)

    return f


GREY, ZEROS = np.full((8, 3, 3, 1), 0.5), np.zeros(8, int)


def test_an_island_where_a_single_step_ends_is_overfitting():
    f = along(lambda t: jnp.cos(2 * jnp.pi * (t + 0.05)))
    check = overfitted(judged(f, GREY, ZEROS))
    assert check.verdict == "masked" and check.number == 100 and check.images == 8
    falling = along(lambda t: 1.5 - t)
    assert overfitted(judged(falling, GREY, ZEROS)).number == 0


def test_one_large_step_over_a_hill_that_small_ones_do_not_climb():
    f = along(lambda t: 1 - 0.4 * jnp.sin(10 * t) - 3 * jax.nn.sigmoid(40 * (t - 0.9)))
    s = judged(f, GREY, ZEROS)
    assert s.accuracy("fgsm") == 0 and s.accuracy("pgm10") == 100
    assert one_step(s).verdict == "masked"


def test_many_small_steps_into_a_ditch_that_ten_jump_over():
    f = along(lambda t: 1 - 2 * jnp.exp(-(((t - 0.15) / 0.07) ** 2)))
    assert more_steps(judged(f, GREY, ZEROS)).verdict == "masked"


@pytest.fixture(scope="module")
def game(net):
    solver = l2l(SmoothAttacker(), image_and_gradient("sign"), steps=1, start="zero")
    phi, phi_stats = solver.init(KEY, jnp.asarray(X))
    given = {"solver": solver, "phi": phi, "phi_stats": phi_stats, "loss": "ce"}
    tx = optax.adam(0.01)
    play = train_response(KEY, net, X, Y, **given, tx=tx, eps=EPS, epochs=40, batch_size=20)
    return as_attack(**given), play


def test_a_best_response_attacks_better_than_the_phi_it_began_with(net, game):
    before, after = (
        play(KEY, net, jnp.asarray(X), jnp.asarray(Y), eps=EPS, norm="linf") for play in game
    )
    assert float(jnp.abs(after - X).max()) <= EPS + 1e-6
    lower, higher = (float(cross_entropy(net(x), Y).mean()) for x in (before, after))
    assert higher > 1.5 * lower


def test_what_the_response_fells_of_autoattacks_survivors_counts(net, game):
    believed = judged(net).stood("clean")
    check = best_response(judged(net, known={"autoattack": believed}), game[1])
    assert check.verdict == "masked" and check.images >= 3
    assert best_response(judged(net), game[1]).number == 0


LIMIT = Limit(1.0, 5.0, "points", 3)


@pytest.mark.parametrize(
    "number, images, verdict, threshold",
    [
        (-4.0, 9, "pass", 1.0),
        (1.0, 9, "pass", 1.0),
        (1.1, 9, "suspect", 1.0),
        (5.1, 3, "masked", 5.0),
        (5.1, 2, "pass", 1.0),
        (5.1, None, "masked", 5.0),
        (float("nan"), None, "suspect", 1.0),
    ],
)
def test_a_number_is_judged_by_its_limits_and_by_its_images(number, images, verdict, threshold):
    check = make_check("x", number, "why", images, LIMIT)
    assert (check.verdict, check.threshold, check.unit) == (verdict, threshold, "points")


def test_one_check_that_decides_is_enough_and_no_check_decides_nothing():
    def of(*verdicts):
        return worst(Check("x", 0.0, "", 0.0, verdict, "") for verdict in verdicts)

    assert of() == of("pass", "pass") == "pass"
    assert of("pass", "suspect", "pass") == "suspect"
    assert of("suspect", "masked", "pass") == "masked"


def test_the_limits_are_those_of_the_calibration():
    path = pathlib.Path(__file__).parent.parent / "results" / "masking.json"
    chosen = json.loads(path.read_text())["limits"]
    assert {name: written(limit) for name, limit in LIMITS.items()} == chosen


def record(net, kind, number, strong=50.0):
    """What the calibration keeps of a net, with one check."""
    check = {"name": "black_box", "number": number, "why": "", "images": 9}
    accuracy = {"fgsm": 70.0, "pgm10": 55.0}
    kept = {"net": net, "kind": kind, "accuracy": accuracy, "strong": strong, "fresh": False}
    return kept | {"checks": [check]}


def test_only_honest_nets_raise_a_limit_and_those_that_pgm_flatters_are_none():
    low = choose([record("a", "honest", 0.0)], 250)["black_box"]
    high = choose([record("a", "honest", 4.0)], 250)["black_box"]
    assert (low.suspect, low.masked) == (0.2, 2.0) and (high.suspect, high.masked) == (0.2, 8.0)
    others = [record("b", "disguised", 40.0), record("c", "honest", 40.0, strong=46.0)]
    assert choose([record("a", "honest", 0.0), *others], 250)["black_box"] == low
    nets = [record(name, "honest", 0.0) for name in "abc"] + [record("d", "disguised", 9.0)]
    assert halves(nets) == {"a": "choosing", "b": "held out", "c": "choosing", "d": "choosing"}


def test_two_sets_of_weights_are_one_trace_and_survivors_cost_none(net, plain):
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    def traced(theta):
        before = len(traces)
        for check in CHECKS[1:]:  # the first calls f itself, once per pass
            check(judged(Partial(counted, theta)))
        return len(traces) - before

    assert traced(*net.args) > 0 == traced(*plain.args)


def test_an_attack_is_played_once_however_many_ask(net, monkeypatch):
    s = judged(net)
    first = s.stood("pgm10")
    monkeypatch.setattr(importlib.import_module("l2ljax.masking.subject"), "cascade", None)
    assert s.stood("pgm10") is first
    assert one_step(judged(net, known={"fgsm": first, "pgm10": first})).number == 0


@pytest.mark.parametrize("case", ["uint8", "one image", "always wrong", "two classes"])
def test_every_check_has_an_answer_at_the_edges(case, net):
    f, x, y = net, X, Y
    if case == "uint8":
        x = DIGITS.x_test[:60]
    elif case == "one image":
        x, y = X[:1], Y[:1]
    elif case == "always wrong":
        y = (np.asarray(net(X)).argmax(-1) + 1) % 10
    else:
        f, (x, y) = (
            Partial(lambda theta, x: logits(theta, x)[:, :2], *net.args),
            (X[Y < 2], Y[Y < 2]),
        )
    checks = examine(judged(f, x, y))
    assert all(np.isfinite(check.number) for check in checks)
    assert worst(checks) == ("suspect" if case == "two classes" else "pass"), checks


def test_an_image_whose_logits_are_nan_has_no_gradient_and_spoils_no_other(net):
    def broken(theta, x):
        ill = (x == X[3]).all((1, 2, 3))
        return jnp.where(ill[:, None], jnp.nan, logits(theta, x))

    s = judged(Partial(broken, *net.args))
    assert zero_gradient(s).why.startswith("1 of 60") and not s.stood("clean")[3]
    rest = np.arange(60) != 3
    np.testing.assert_array_equal(s.stood("pgm10")[rest], judged(net).stood("pgm10")[rest])


def test_the_surface_is_the_loss_on_the_plane_and_stays_in_the_box(net):
    seen = loss_surface(judged(net, X[:3], Y[:3]), reach=2.0, points=5)
    np.testing.assert_allclose(seen.ticks, [-2, -1, 0, 1, 2])
    assert seen.loss.shape == seen.margin.shape == (3, 5, 5)
    np.testing.assert_allclose(seen.loss[:, 2, 2], cross_entropy(net(X[:3]), Y[:3]), rtol=1e-4)
    step = pgd(KEY, net, X[:3], Y[:3], eps=EPS, steps=1, step_size=EPS, start="zero", loss="ce")
    np.testing.assert_allclose(seen.loss[:, 3, 2], cross_entropy(net(step), Y[:3]), rtol=1e-4)

    def outside(x):
        return jnp.where(((x < 0) | (x > 1)).any(), jnp.nan, logits(*net.args, x))

    edge = loss_surface(judged(outside, X[:3].round(), Y[:3]), reach=9.0, points=3)
    assert np.isfinite(edge.loss).all()


@pytest.mark.parametrize("case", ["two nets", "never wrong", "nan"])
def test_the_surface_is_drawn_whatever_it_holds(case, net, plain, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from l2ljax.figures import draw_surfaces

    planes = {"PGM net": loss_surface(judged(net, X[:2], Y[:2]), reach=2.0, points=7)}
    if case == "two nets":
        planes["plain"] = loss_surface(judged(plain, X[:2], Y[:2]), reach=2.0, points=7)
    else:
        one = planes["PGM net"]
        flat = np.full_like(one.loss, np.nan if case == "nan" else 0.0)
        planes = {"": one._replace(loss=flat, margin=flat - 1)}
    path = tmp_path / "pictures" / "surface.png"
    assert draw_surfaces(path, planes, "Is it masking?", eps=0.1, names=["a", "b"]) == path
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.01


def test_a_report_has_a_line_for_every_check_and_says_what_was_not_made():
    from l2ljax.runs.summary import MaskingReport

    made = [
        Check("one_step", 2.5, "points", 2.0, "masked", "seen", 9),
        Check("shattered", float("nan"), "", 0.2, "suspect", "nothing"),
    ]
    report = MaskingReport(tuple(made), {"transfer": "no sibling was named"}, (), None)
    lines = str(report).splitlines()
    assert lines[2].split() == ["one_step", "2.5", "2", "points", "masked", "seen"]
    assert lines[4].split(maxsplit=3) == ["transfer", "not", "made", "no sibling was named"]
    assert lines[-1] == "verdict: masked"
    written = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert written["verdict"] == "masked" and written["checks"][1]["number"] is None
    assert written["not_made"] == {"transfer": "no sibling was named"}
