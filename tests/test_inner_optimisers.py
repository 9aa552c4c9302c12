"""Claim (b): the climbs are those of the attacks and solvers, and the page says what they say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from climbs import (
    Hill,
    Learned,
    auto_pgd,
    bounds,
    constant_step,
    decaying,
    decaying_step,
    pgd,
    play_learned,
    tune,
)
from games import EPS, SmoothClassifier, images, keys, solve
from inner_optimisers import main
from inner_optimisers_page import APGD, BEST, DECAY, LEARNED, TUNED, page, summarise, verdict
from l2ljax import attacks
from l2ljax.apply import functional, initialise
from l2ljax.ball import uniform
from l2ljax.commands import train
from l2ljax.errors import InputError
from l2ljax.losses import cross_entropy, plain_ell
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers import apgd, rnn
from learn_to_climb import stages
from learn_to_climb import train as learn

X, Y = images(size=4, classes=3)
THETA = initialise(SmoothClassifier(), jax.random.key(1), X)[0]
F = Partial(lambda theta, x: functional(SmoothClassifier())(theta, {}, x, "eval")[0], THETA)
HILL = Hill(F, X, Y, uniform(keys(), X, EPS), EPS, 5)


def loss(x):
    return cross_entropy(F(x), Y)


def solved(solver, phi):
    ell = plain_ell("ce", F, X, Y)

    @jax.jit
    def run(phi):
        return ell(None, X + solve(solver, ell, X, Y, None, phi).delta)

    return run(phi)


def test_a_decaying_step_falls_to_zero_after_the_last_one():
    assert decaying(1.0, 4) == [1.0, 0.75, 0.5, 0.25]
    assert decaying(0.5, 1) == [0.5]


def test_for_every_t_the_best_size_is_chosen_and_of_equals_the_smallest():
    table = {0.1: [1.0, 2.0, 5.0], 0.2: [3.0, 2.0, 4.0], 0.3: [2.0, 1.0, 5.0]}

    def play(hill, sizes):
        return np.stack([[table[size][t] - 1, table[size][t] + 1] for t, size in enumerate(sizes)])

    assert tune(play, HILL._replace(t_max=3), [0.1, 0.2, 0.3]) == [0.2, 0.1, 0.1]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_constant_step_is_the_attack_pgd(steps):
    how = {"eps": EPS, "steps": steps, "step_size": 0.3 * EPS, "loss": "ce"}
    expected = loss(attacks.pgd(keys(), F, X, Y, start=HILL.delta, **how))
    found = pgd(HILL, [0.3] * 3)
    np.testing.assert_allclose(found[steps - 1], expected, rtol=1e-5)


def test_every_t_plays_the_size_that_was_chosen_for_it():
    chosen = [2.0, 0.5, 0.5, 0.3, 2.0]
    expected = [pgd(HILL, [size] * 5)[t] for t, size in enumerate(chosen)]
    np.testing.assert_array_equal(constant_step(HILL, chosen), expected)
    expected = [pgd(HILL, decaying(size, t))[-1] for t, size in enumerate(chosen, 1)]
    np.testing.assert_array_equal(decaying_step(HILL, chosen), expected)
    assert float(jnp.abs(jnp.asarray(expected)[0] - loss(X + HILL.delta)).max()) > 1e-4


@pytest.mark.parametrize("steps", [1, 5])
def test_auto_pgd_is_the_solver_with_as_many_gradients(steps):
    found = auto_pgd(HILL)
    np.testing.assert_allclose(found[steps - 1], solved(apgd(steps, "uniform"), {}), rtol=1e-5)


@pytest.mark.parametrize("bound, learned_step", [(0.5, True), (2.0, True), (0.5, False)])
def test_a_learned_optimiser_plays_as_the_solver_of_as_many_steps(bound, learned_step):
    cell = CoordinateLSTM(4)
    settings = {"start": "uniform", "weights": "ones", "remat": False, "learned_step": learned_step}
    settings |= {"bound": bound, "preprocess": "sign_log"}
    solvers = {t: rnn(cell, steps=t, **settings) for t in (1, 5)}
    phi = solvers[1].init(jax.random.key(3), X)[0]
    phi = phi | {"output": 20 * phi["output"]}
    player = Learned(cell, "sign_log", bound, learned_step, phi)
    found = play_learned(player, HILL, bounds(player, 5))
    assert found.shape == (5, len(X))
    for t, solver in solvers.items():
        np.testing.assert_allclose(found[t - 1], solved(solver, phi), rtol=1e-4)


def learner():
    cell = CoordinateLSTM(4)
    q = jnp.zeros_like(X)
    phi, _ = initialise(cell, jax.random.key(3), (q[..., None].repeat(2, -1), cell.zero_carry(q)))
    return Learned(cell, "sign_log", 0.5, True, phi | {"output": 20 * phi["output"]})


def test_what_a_cell_sees_of_an_image_does_not_depend_on_the_others():
    cell = CoordinateLSTM(4)
    seen = jnp.zeros_like(X)[..., None], cell.zero_carry(X)
    player = Learned(cell, "batch_max", 0.5, True, initialise(cell, jax.random.key(3), seen)[0])
    few = HILL._replace(x=X[:3], y=Y[:3], delta=HILL.delta[:3])
    found = play_learned(player, HILL, [0.5] * 3)[:, :3]
    np.testing.assert_allclose(found, play_learned(player, few, [0.5] * 3), rtol=1e-5)


def test_every_t_plays_the_bound_that_was_chosen_for_it():
    player = learner()
    chosen = [2.0, 0.5, 0.5, 1.0, 2.0]
    found = play_learned(player, HILL, chosen)
    for t, bound in enumerate(chosen):
        np.testing.assert_array_equal(found[t], play_learned(player, HILL, [bound] * 5)[t])
    assert bool((found[1] != play_learned(player, HILL, [2.0] * 5)[1]).any())


def test_phi_learns_to_climb_through_its_stages():
    options = {"hidden": 4, "phi_batch": 6, "weights": "ones", "pre": "sign_log", "bound": 1.0}
    options |= {"learned_step": True, "t_train": "1,2", "phi_lr": "0.1,0.02"}
    x, y = np.asarray(X), np.asarray(Y)
    before, after = (
        play_learned(learn(F, x, y, EPS, 0, options | {"ascents": n}), HILL, [1.0] * 5).mean()
        for n in ("1,1", "30,10")
    )
    assert after > before + 0.02


def test_a_value_for_every_stage_or_none_at_all():
    options = {"t_train": "10,20", "ascents": "300,100", "phi_lr": "0.05,0.01"}
    assert stages(options) == [(10, 300, 0.05), (20, 100, 0.01)]
    with pytest.raises(InputError, match="a value for every stage"):
        stages(options | {"ascents": "300"})


def numbers(learned, decay, best, auto):
    """Losses [nets, seeds, T, images] of two nets, for learned with two seeds."""
    rows = {LEARNED: learned, DECAY: decay, BEST: best, APGD: auto}
    images = np.array([0.0, 1.0, 5.0])  # what an image adds, the same for all
    table = {}
    for name, values in rows.items():
        seeds = 2 if name == LEARNED else 1
        losses = np.asarray(values, float)[None, None, :, None] + images
        table[name] = np.repeat(np.repeat(losses, 2, 0), seeds, 1)
    return table


def test_a_gap_is_paired_by_image_and_against_the_rival_best_at_that_t():
    table = numbers([4, 6], [3, 1], [2, 7], [1, 2])
    table[LEARNED][:, 1] += 2  # the second seed
    found = summarise(table, draws=50)
    first, second = found["gaps"][LEARNED]
    assert (first["steps"], first["rival"]) == (1, DECAY) and (second["rival"]) == BEST
    # The images differ by far more than the players; paired, none of it is left.
    assert [first[k] for k in ("gap", "low", "high")] == pytest.approx([2.0] * 3)
    assert [second[k] for k in ("gap", "low", "high")] == pytest.approx([0.0] * 3)
    assert first["by_net"] == pytest.approx([2.0, 2.0])
    player = found["players"][LEARNED]
    assert player["mean"] == pytest.approx([7.0, 9.0])
    assert player["sd"] == pytest.approx([2**0.5] * 2)
    assert found["players"][APGD]["sd"] == [0.0, 0.0]


@pytest.mark.parametrize(
    "lows, said",
    [
        ([-1, -1, -1, 0.1, 0.2], "ahead at every 4 <= T <= 5"),
        ([1, 1, 1, 0.0, 0.2], "not ahead at T = 4"),
        ([1, 1, 1, -0.1, -0.2], "not ahead at T = 4, 5"),
        ([1, 1, 1], "nothing was played at T >= 4"),
    ],
)
def test_the_claim_holds_where_the_whole_interval_is_above_zero(lows, said):
    assert verdict([{"steps": t, "low": low} for t, low in enumerate(lows, 1)]) == said


TINY = ["--model=mlp", "--batch_size=256", "--epochs=1", "--diagnose=0", "--final_attacks=clean"]
TINY += ["--noplots", "--notensorboard"]
QUICK = ["--ascents=3", "--t_train=2", "--t_max=5", "--phi_seeds=0,1", "--hidden=4"]
QUICK += ["--num_examples=40", "--draws=50"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in (
        ("a", ["--method=plain", "--seeds=1"]),
        ("b", ["--method=plain", "--seeds=2"]),
        ("recurrent", ["--method=rnn_adv", "--inner_steps=2", "--rnn_hidden=3"]),
    ):
        assert train.main([*TINY, *flags, f"--workdir={folder / name}"]) == 0
    return folder


def test_the_report_has_every_player_on_every_other_net(runs, tmp_path):
    out = tmp_path / "new" / "claim"
    flags = [f"--workdirs={runs / 'a'},{runs / 'b'},{runs / 'recurrent'}", f"--out={out}"]
    flags += [f"--phi={runs / 'recurrent'}", "--plots=false"]
    assert main([*QUICK, *flags]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert list(report["players"]) == [LEARNED, TUNED, "recurrent", DECAY, BEST, APGD]
    assert report["trained_on"] == "a" and report["judged_on"] == ["b", "recurrent"]
    assert np.shape(report["players"][LEARNED]["by_net"]) == (2, 2, 5)
    assert np.shape(report["players"][APGD]["by_net"]) == (2, 1, 5)
    steps = report["chosen_steps"]
    assert np.shape(steps[TUNED]) == (2, 5)
    assert all(len(steps[net][DECAY]) == len(steps[net][BEST]) == 5 for net in ("b", "recurrent"))
    assert {"jax", "device", "cores", "commit"} <= set(report["made_with"])
    text = out.with_suffix(".md").read_text()
    assert text == page(report)
    assert text.startswith("Measured here: `python benchmarks/inner_optimisers.py --workdirs=")
    assert len([line for line in text.splitlines() if line.startswith("| 5 ")]) == 1
    assert f"- {LEARNED}: " in text and "- recurrent: " in text


def test_the_picture_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    from l2ljax.figures import draw_inner_optimisers

    report = summarise(numbers([4, 6], [3, 1], [2, 7], [1, 2]), draws=50)
    report |= {"dataset": "digits", "images": 3, "judged_on": ["b", "c"]}
    path = draw_inner_optimisers(tmp_path / "new" / "claim.png", report)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    "flags, line",
    [
        ([], "--workdirs=TRAINED_ON,JUDGED_ON"),
        (["--workdirs=a"], "--workdirs=TRAINED_ON,JUDGED_ON"),
        (["--workdirs=a,b", "--ascents=0"], "--ascents=0 must be positive"),
        (["--workdirs=a,b", "--t_train=5,x"], "--t_train=5,x is no list of numbers"),
        (["--workdirs=a,b", "--bound=0"], "--bound=0.0 must be positive"),
        (["--workdirs=a,b", "--phi_seeds=1,x"], "--phi_seeds=1,x is no list of seeds"),
        (["--workdirs=none,nowhere"], "none is no run"),
        (["--workdirs=a,b", "--pre=signlog"], "did you mean 'sign_log'"),
    ],
)
def test_bad_flags_get_one_line(flags, line, capsys):
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1


def test_a_run_without_a_recurrent_phi_is_refused(runs, capsys):
    flags = [f"--workdirs={runs / 'a'},{runs / 'b'}", f"--phi={runs / 'a'}"]
    assert main([*QUICK, *flags]) == 2
    assert "plain trains no RNN optimiser" in capsys.readouterr().err.splitlines()[-1]
