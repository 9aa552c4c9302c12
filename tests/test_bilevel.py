"""The step against finite differences, against the formulas written plainly, and its order."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from games import (
    EPS,
    SGD,
    SmoothAttacker,
    SmoothClassifier,
    TinyClassifier,
    images,
    method_of,
    seen_by,
    solve,
    tiny_net,
)
from l2ljax.apply import functional, initialise
from l2ljax.ball import Radii
from l2ljax.bilevel import Player, init_state, make_step, outside, turns
from l2ljax.losses import ATTACK_LOSSES, cross_entropy
from l2ljax.methods import METHODS
from l2ljax.models import make_classifier
from l2ljax.solvers import n_fgsm, pgm
from l2ljax.types import Batch, Inner, Method, Solver, no_phi

LR = 0.1
ASCENT = optax.sgd(LR)
KEY = jax.random.key(4)


def smooth_game(name, dtype=jnp.float64, **changes):
    """float64 unless told otherwise, smooth nets: (f, g, method, state, x, y, step)."""
    x, y = images(n=4, size=4, classes=3, dtype=dtype)
    net, attacker = SmoothClassifier(), SmoothAttacker()
    method = method_of(name, attacker=attacker, **changes)
    theta, stats = initialise(net, jax.random.key(1), x)
    state = init_state(jax.random.key(2), theta, stats, method, ASCENT, ASCENT, x)
    step = make_step(functional(net), method, ASCENT, ASCENT, eps=EPS)
    return functional(net), functional(attacker), method, state, x, y, step


def moves(before, after):
    """The gradients a plain SGD step has used: (theta's, phi's), phi's as it climbs."""
    d_theta = jax.tree.map(lambda a, b: (a - b) / LR, before.theta, after.theta)
    d_phi = jax.tree.map(lambda a, b: (b - a) / LR, before.phi, after.phi)
    return d_theta, d_phi


def finite_differences(loss, tree, h=1e-6):
    """Central differences of a scalar function, coordinate by coordinate."""
    flat, unravel = jax.flatten_util.ravel_pytree(tree)
    slope = jax.jit(
        jax.vmap(lambda e: (loss(unravel(flat + h * e)) - loss(unravel(flat - h * e))) / (2 * h))
    )
    return np.asarray(slope(jnp.eye(len(flat))))


def reference(name, f, g, theta, phi, x, y):
    """delta as section 2.2 of the paper has it, in numbers; u is a constant, its inputs too."""

    def u_hat(x):
        x = jax.lax.stop_gradient(x)
        u = jax.grad(lambda x: cross_entropy(f(theta, {}, x, "eval")[0], y).mean())(x)
        return jax.lax.stop_gradient(u / jnp.abs(u).max())

    def attack(x):
        return EPS * g(phi, {}, jnp.concatenate([x, u_hat(x)], -1), "eval")[0]

    if name == "naive_l2l":
        return EPS * g(phi, {}, x, "eval")[0]
    if name == "grad_l2l":
        return attack(x)
    delta0 = attack(x)
    return jnp.clip(delta0 + attack(x + delta0), -EPS, EPS)


@pytest.mark.parametrize("name", ["naive_l2l", "grad_l2l", "two_step_l2l"])
def test_both_gradients_match_an_independent_writing_and_finite_differences(name):
    with jax.enable_x64(True):
        f, g, _, state, x, y, step = smooth_game(name)
        after, metrics = jax.jit(step)(state, (x, y), jax.random.key(0))
        d_theta, d_phi = moves(state, after)
        delta = jax.jit(lambda phi: reference(name, f, g, state.theta, phi, x, y))(state.phi)

        def on_constant_delta(theta):
            return cross_entropy(f(theta, {}, x + delta, "eval")[0], y).mean()

        def through_delta(phi):
            delta = reference(name, f, g, state.theta, phi, x, y)
            return cross_entropy(f(state.theta, {}, x + delta, "eval")[0], y).mean()

        loss, slope = jax.jit(jax.value_and_grad(on_constant_delta))(state.theta)
        np.testing.assert_allclose(metrics["theta/loss"], loss)
        chex.assert_trees_all_close(d_theta, slope, atol=1e-9)
        chex.assert_trees_all_close(d_phi, jax.jit(jax.grad(through_delta))(state.phi), atol=1e-9)
        flat = jax.flatten_util.ravel_pytree
        np.testing.assert_allclose(
            flat(d_theta)[0], finite_differences(on_constant_delta, state.theta), atol=1e-8
        )
        if name != "two_step_l2l":  # there u's second point moves with phi, and is held constant
            np.testing.assert_allclose(
                flat(d_phi)[0], finite_differences(through_delta, state.phi), atol=1e-8
            )


def test_two_step_gradient_of_phi_has_the_path_through_delta0_and_none_through_u():
    with jax.enable_x64(True):
        f, g, _, state, x, y, step = smooth_game("two_step_l2l")
        _, d_phi = moves(state, jax.jit(step)(state, (x, y), jax.random.key(0))[0])

        def u_hat(x):
            u = jax.grad(lambda x: cross_entropy(f(state.theta, {}, x, "eval")[0], y).sum())(x)
            return u / jnp.abs(u).max()

        def call(phi, x, u):
            return EPS * g(phi, {}, jnp.concatenate([x, u], -1), "eval")[0]

        base = jax.jit(lambda: call(state.phi, x, u_hat(x)))()
        frozen_u = jax.jit(u_hat)(x + base)

        def loss(phi, image, u_is_frozen=True):
            delta0 = call(phi, x, u_hat(x))
            seen = delta0 if image == "path" else base
            u = frozen_u if u_is_frozen else u_hat(x + delta0)
            delta = jnp.clip(delta0 + call(phi, x + seen, u), -EPS, EPS)
            return cross_entropy(f(state.theta, {}, x + delta, "eval")[0], y).mean()

        flat = jax.flatten_util.ravel_pytree
        ours = flat(d_phi)[0]
        expected = finite_differences(lambda phi: loss(phi, "path"), state.phi)
        detached = finite_differences(lambda phi: loss(phi, "none"), state.phi)
        through_u = finite_differences(lambda phi: loss(phi, "path", False), state.phi)
        np.testing.assert_allclose(ours, expected, atol=1e-8)
        assert np.abs(ours - detached).max() > 1e-5, "the path through delta0 is missing"
        assert np.abs(ours - through_u).max() > 1e-5, "a path through u has appeared"


def test_phi_ascends_and_theta_descends_on_a_fixed_other_player():
    f, _, method, state, x, y, _ = smooth_game("grad_l2l", jnp.float32, order="alternating")
    still = optax.set_to_zero()
    for frozen, sign in (("theta", 1), ("phi", -1)):
        txs = (still, ASCENT) if frozen == "theta" else (ASCENT, still)
        opt_theta, opt_phi = txs[0].init(state.theta), txs[1].init(state.phi)
        s = state._replace(opt_theta=opt_theta, opt_phi=opt_phi)
        step = jax.jit(make_step(f, method, *txs, eps=EPS))
        losses = []
        for _ in range(20):
            s, metrics = step(s, (x, y), jax.random.key(0))
            losses.append(float(metrics["phi/loss"]))
        assert sign * (losses[-1] - losses[0]) > 1e-4, frozen


def test_ascent_keeps_weight_decay_a_decay():
    player = Player(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0)))
    w, zero = jnp.ones(1), jnp.zeros(1)
    up, _ = player.ascend(zero, player.tx.init(w), w)
    assert float(up[0]) < 1.0
    climbed, _ = player.ascend(jnp.ones(1), player.tx.init(w), w)
    assert float(climbed[0]) > 1.0


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_the_batchnorm_table(order):
    """Which mode each pass runs in, recorded pass by pass: (craft, attacker, outer) per turn."""
    seen = []

    def f(theta, stats, x, mode, rng=None):
        seen.append(mode)
        logits = x.reshape(len(x), -1)[:, :3] * theta
        return logits, stats + 1 if mode == "update" else stats

    def recorded(problem, theta, phi, phi_stats):
        problem.ell(theta, problem.x)
        seen.append("attacker " + ("train" if problem.train else "eval"))
        delta = problem.eps * jnp.tanh(phi) * jnp.ones_like(problem.x)
        return Inner(delta, phi_stats=phi_stats + problem.train)

    method = method_of("grad_l2l", order=order)
    method = method._replace(solver=Solver(lambda rng, x: (jnp.ones(()), jnp.zeros(())), recorded))
    x, y = images(classes=3)
    state = init_state(jax.random.key(0), jnp.ones(()), jnp.zeros(()), method, SGD, SGD, x)
    step = make_step(f, method, SGD, SGD, eps=EPS, phi_steps=1)
    after, _ = step(state, (x, y), jax.random.key(0))
    expected = {
        "simultaneous": ["batch", "attacker train", "update"],
        "alternating": ["batch", "attacker eval", "update", "eval", "attacker train", "eval"],
    }
    assert seen == expected[order]
    assert float(after.theta_stats) == 1 and float(after.phi_stats) == 1


def test_craft_bn_update_lets_the_statistics_see_the_clean_images_too():
    f, theta, stats = tiny_net()
    x, y = images()
    method = method_of("fgsm", clean_mix=False)
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x)

    def statistics(craft_bn):
        step = make_step(f, method, SGD, SGD, eps=EPS, craft_bn=craft_bn)
        return jax.jit(step)(state, (x, y), jax.random.key(0))[0].theta_stats

    once, twice = statistics("batch"), statistics("update")
    assert any(
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (once, twice)), strict=True)
    )


def test_phi_steps_are_moves_of_phi_alone():
    f, _, _, start, x, y, _ = smooth_game("naive_l2l", jnp.float32)
    theta, stats = start.theta, {}
    method = method_of("naive_l2l", SmoothAttacker(), order="alternating")
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x)

    def after(phi_steps):
        step = make_step(f, method, SGD, SGD, eps=EPS, phi_steps=phi_steps)
        return jax.jit(step)(state, (x, y), jax.random.key(0))[0]

    one, three = after(1), after(3)
    chex.assert_trees_all_close(one.theta, three.theta, atol=1e-6)
    assert bool((jax.tree.leaves(one.phi)[0] != jax.tree.leaves(three.phi)[0]).any())
    assert [turn.phi for turn in turns(method, 3, "batch")] == [False, True, True, True]


def test_gain_moves_phi_and_neither_the_loss_nor_theta():
    f, _, _, start, x, y, _ = smooth_game("naive_l2l", jnp.float32)
    theta, stats = start.theta, {}
    base = method_of("naive_l2l", SmoothAttacker())

    def with_gain(weight):
        def solve_with_gain(*given):
            inner = base.solver.solve(*given)
            return inner._replace(gain=weight * (inner.delta**2).mean())

        return base._replace(solver=base.solver._replace(solve=solve_with_gain))

    def play(method):
        state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x)
        return jax.jit(make_step(f, method, SGD, SGD, eps=EPS))(state, (x, y), jax.random.key(0))

    (without, m0), (with_, m1) = play(with_gain(0.0)), play(with_gain(100.0))
    chex.assert_trees_all_close(without.theta, with_.theta, atol=1e-6)
    np.testing.assert_allclose(m0["theta/loss"], m1["theta/loss"], rtol=1e-6)
    assert float(m1["phi/grad_norm"]) > 1.1 * float(m0["phi/grad_norm"])


def test_the_average_follows_theta_with_its_decay():
    f, theta, stats = tiny_net()
    x, y = images()
    method = method_of("plain")
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x, ema=True)
    state = state._replace(step=jnp.int32(200))  # the warm-up of the decay is over
    step = make_step(f, method, SGD, SGD, eps=EPS, ema_decay=0.9)
    after, _ = jax.jit(step)(state, (x, y), jax.random.key(0))
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.ema, after.theta)
    chex.assert_trees_all_close(after.ema, expected, atol=1e-6)


def test_a_step_is_a_function_of_step_rollbacks_and_key():
    f, theta, stats = tiny_net()
    x, y = images()
    method = method_of("pgm", attacker_start="uniform")
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x)
    step = jax.jit(make_step(f, method, SGD, SGD, eps=EPS))
    key = jax.random.key(0)
    same = [float(step(state, (x, y), key)[1]["delta/mean_abs"]) for _ in range(2)]
    other = [
        step(state._replace(step=state.step + 1), (x, y), key),
        step(state._replace(rollbacks=state.rollbacks + 1), (x, y), key),
        step(state, (x, y), jax.random.key(1)),
    ]
    assert same[0] == same[1]
    assert len({same[0], *(float(m["delta/mean_abs"]) for _, m in other)}) == 4


def test_the_radius_is_warmed_up():
    f, theta, stats = tiny_net()
    x, y = images()
    method = method_of("fgsm", clean_mix=False)
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x)
    step = jax.jit(make_step(f, method, SGD, SGD, eps=lambda step: 0.01 * (step + 1)))
    radii = []
    for _ in range(3):
        state, metrics = step(state, (x, y), jax.random.key(0))
        radii.append(float(metrics["theta/eps"]))
    np.testing.assert_allclose(radii, [0.01, 0.02, 0.03], rtol=1e-6)


def test_wrong_shapes_are_refused_at_the_door():
    f, theta, stats = tiny_net()
    x, y = images()
    method = method_of("plain")
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x)
    step = make_step(f, method, SGD, SGD, eps=EPS)
    with pytest.raises(ValueError, match="add the batch axis"):
        step(state, (x[0], y), jax.random.key(0))
    with pytest.raises(ValueError, match="8 class indices"):
        step(state, (x, y[:-1]), jax.random.key(0))
    with pytest.raises(ValueError, match="class indices are whole numbers"):
        jax.jit(step)(state, (x, y.astype(jnp.float32)), jax.random.key(0))
    with pytest.raises(ValueError, match="divide by 255"):
        step(state, (255 * x, y), jax.random.key(0))
    with pytest.raises(ValueError, match="subtract mean and divide by std"):
        init_state(jax.random.key(0), theta, stats, method, SGD, SGD, 4 * x - 2)


def test_grad_l2l_learns_to_attack_a_frozen_classifier():
    """A short run that must learn: on a fixed theta, phi ends well above half of FGSM's gain."""
    x, y = images(n=32, classes=3)
    net = SmoothClassifier()
    theta, _ = initialise(net, jax.random.key(1), x)
    f = functional(net)
    method, adam = method_of("grad_l2l", attacker=SmoothAttacker()), optax.adam(1e-2)
    state = init_state(jax.random.key(2), theta, {}, method, optax.set_to_zero(), adam, x)
    step = jax.jit(make_step(f, method, optax.set_to_zero(), adam, eps=EPS))
    for _ in range(150):
        state, metrics = step(state, (x, y), jax.random.key(0))
    ell = ATTACK_LOSSES["ce"](seen_by(f), theta, {}, x, y)

    @jax.jit
    def losses():
        fgsm = solve(method_of("fgsm").solver, ell, x, y, theta)
        return ell(theta, x).mean(), ell(theta, x + fgsm.delta).mean()

    clean, strong = losses()
    assert (metrics["theta/loss"] - clean) / (strong - clean) > 0.7
    assert no_phi(jax.random.key(0), x) == ({}, {})


UNPAIRED = [name for name in METHODS if not method_of(name).paired]


@pytest.mark.parametrize(
    "name, order", [*((name, "simultaneous") for name in UNPAIRED), ("grad_l2l", "alternating")]
)
def test_parts_of_a_batch_move_the_players_as_the_whole_batch_does(name, order):
    x, y = images(size=4, classes=3)
    changes = {"order": order, "grad_norm": "none", "rnn_input": "sign_log"}
    method = method_of(name, attacker=SmoothAttacker(), **changes)
    f, (theta, stats) = functional(SmoothClassifier()), initialise(SmoothClassifier(), KEY, x)
    state = init_state(KEY, theta, stats, method, SGD, SGD, x)
    after = []
    for parts in (1, 4):
        step = make_step(f, method, SGD, SGD, eps=EPS, accumulate=parts)
        after.append(jax.jit(step)(state, (x, y), KEY))
    (whole, said), (parted, told) = after
    chex.assert_trees_all_close(parted, whole, rtol=1e-4, atol=1e-6)
    assert said.keys() == told.keys()
    for key in said:
        np.testing.assert_allclose(told[key], said[key], rtol=1e-4, atol=1e-6, err_msg=key)


def test_statistics_go_from_part_to_part_and_the_step_counts_once():
    f, theta, stats = tiny_net()
    x, y = images()
    method = method_of("plain")
    state = init_state(KEY, theta, stats, method, SGD, SGD, x, ema=True)
    step = jax.jit(make_step(f, method, SGD, SGD, eps=EPS, accumulate=2, ema_decay=0.9))
    after, _ = step(state, (x, y), KEY)
    looking = jax.jit(lambda stats, part: f(theta, stats, part, "update")[1])
    expected = looking(looking(stats, x[:4]), x[4:])
    chex.assert_trees_all_close(after.theta_stats, expected, atol=1e-6)
    # Once, with the decay that the warm-up allows at step 0.
    average = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, state.ema, after.theta)
    chex.assert_trees_all_close(after.ema, average, atol=1e-6)
    assert int(after.step) == 1


def test_two_seeds_under_vmap_are_two_runs():
    x, y = images()
    net, method = TinyClassifier(), method_of("grad_l2l", SmoothAttacker())
    step = make_step(functional(net), method, SGD, SGD, eps=EPS)

    def run(key):
        theta_key, phi_key = jax.random.split(key)
        state = init_state(phi_key, *initialise(net, theta_key, x), method, SGD, SGD, x)
        for _ in range(2):
            state, metrics = step(state, Batch(x, y), key)
        return state, metrics

    seeds = jnp.stack([jax.random.key(0), jax.random.key(1)])
    both = jax.jit(jax.vmap(run))(seeds)
    run = jax.jit(run)
    alone = [run(seed) for seed in seeds]
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *(one[0].theta for one in alone))
    assert min(jax.tree.leaves(apart)) >= 0 and max(jax.tree.leaves(apart)) > 0.1
    for i, one in enumerate(alone):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], both), one, rtol=1e-3, atol=1e-4
        )


def test_a_train_loss_of_ones_own_needs_no_metrics():
    """The step records the loss itself, with or without a word from the training loss."""
    f, theta, stats = tiny_net()
    x, y = images()

    def train_loss(forward, problem, theta, theta_stats, inner):
        logits, theta_stats = forward(theta, theta_stats, problem.x + inner.delta)
        return cross_entropy(logits, problem.y).mean(), theta_stats, {}

    attacker = SmoothAttacker()
    solver = method_of("grad_l2l", attacker).solver
    for order in ("simultaneous", "alternating"):
        method = Method(solver, ATTACK_LOSSES["ce"], train_loss, True, order)
        state = init_state(KEY, theta, stats, method, SGD, SGD, x)
        _, metrics = jax.jit(make_step(f, method, SGD, SGD, eps=EPS))(state, (x, y), KEY)
        assert float(metrics["theta/loss"]) > 0 and float(metrics["phi/loss"]) > 0


def test_passes_of_one_step_draw_different_dropout_masks():
    f, theta, stats = dropout_net()
    x, _ = images()
    seeing = jax.jit(outside(f, "update", KEY))
    first, second = (seeing(theta, stats, x, draw)[0] for draw in (0, 1))
    assert bool((first != second).any())
    assert bool((first == seeing(theta, stats, x)[0]).all())


def dropout_net():
    net = make_classifier("small_cnn", 10, width=1 / 16)
    theta, stats = initialise(net, KEY, images()[0])
    # Its last layer starts at zero.
    theta = jax.tree.map(lambda w: w + 0.1, theta)
    return functional(net), theta, stats


def test_a_step_in_radii_follows_a_radius_that_is_warmed_up():
    x, y = images(classes=3)
    theta, _ = initialise(SmoothClassifier(), KEY, x)
    ell = ATTACK_LOSSES["ce"](seen_by(functional(SmoothClassifier())), theta, {}, x, y)
    for solver in (functools.partial(pgm, 3), functools.partial(n_fgsm, 1.0)):
        start = {"start": "uniform"} if solver.func is pgm else {}
        relative = solver(step_size=Radii(0.25), **start)
        number = solver(step_size=0.025 * EPS, **start)

        @jax.jit
        def found(eps, solvers=(relative, number)):
            return [solve(s, ell, x, y, theta, eps=eps).delta for s in solvers]

        for eps, same in ((0.1 * EPS, True), (EPS, False)):
            assert bool(jnp.allclose(*found(eps), atol=1e-7)) is same
