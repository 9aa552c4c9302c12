"""The game of imitation: both players' gradients, what each is paid, what passes to whom."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from l2ljax.imitation import (
    FOLLOWERS,
    PPO,
    REWARDS,
    TASKS,
    Demonstrations,
    Environment,
    FollowerSettings,
    Pairs,
    clone,
    expert_pairs,
    first_trajectories,
    init_state,
    make_environment,
    make_policy,
    make_turn,
    play,
    training,
)
from l2ljax.imitation.followers import draw_pairs, no_pairs, objective
from l2ljax.imitation.leader import Rollout, Step, Task
from l2ljax.imitation.training import (
    Batch,
    Moments,
    advantages,
    make_loss,
    normalise,
    own_pairs,
)
from needs import gymnax

KEY = jax.random.key(0)
LEARNED = [n for n in FOLLOWERS if n not in ("constant_reward", "blind", "environment")]
TINY = PPO(epochs=1, minibatches=1)


def two_states(horizon=4):
    """Two states, two actions; the action is the next state, and being in state 1 pays."""

    def reset(rng):
        return jnp.array([1.0, 0.0]), jnp.zeros((), jnp.int32)

    def step(rng, state, a):
        time = state + 1
        s = jax.nn.one_hot(a, 2)
        over = time >= horizon
        s_next, time = jnp.where(over, jnp.array([1.0, 0.0]), s), jnp.where(over, 0, time)
        return Step(s_next, time, a.astype(jnp.float32), jnp.asarray(False), over, s)

    return Environment("two", 2, 2, (), horizon, Task((1.0, 1.0), 4.0, 2.0), reset, step)


def pairs(rows, a, absorbing=None, weight=None):
    n = len(a)
    absorbing = jnp.zeros(n) if absorbing is None else jnp.asarray(absorbing, jnp.float32)
    weight = jnp.ones(n) if weight is None else jnp.asarray(weight, jnp.float32)
    return Pairs(jax.nn.one_hot(jnp.asarray(rows), 2), jnp.asarray(a), absorbing, weight, weight)


EXPERT = pairs([0, 1, 1, 1], [1, 1, 1, 1])
MIXED = pairs([0, 1, 0, 1], [1, 0, 0, 1])


def leader_of(env, theta=None):
    policy = make_policy(env)
    theta = policy.init(KEY) if theta is None else theta
    return lambda s, a: policy.log_prob(theta, s, a)


def finite_difference(f, x, i, h=1e-3):
    step = jnp.zeros_like(x).at[i].set(h)
    return (f(x + step) - f(x - step)) / (2 * h)


@pytest.mark.parametrize("name", ["gail", "l2l_gail", "airl_like"])
def test_the_follower_climbs_its_objective_and_its_gradient_is_the_finite_difference(name):
    env = two_states()
    with jax.enable_x64(True):
        follower = FOLLOWERS[name](env, FollowerSettings(phi_lr=1e-2, phi_steps=1))
        phi, opt = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), follower.init(KEY))
        leader = leader_of(env)
        L_D = objective(lambda phi, leader, p: -follower.reward(phi, leader, p))
        flat, unravel = ravel_pytree(phi)

        gained = jax.jit(lambda flat: L_D(unravel(flat), leader, MIXED, EXPERT)[0])
        update = jax.jit(lambda phi: follower.update(KEY, phi, opt, leader, MIXED, EXPERT))
        before = gained(flat)
        for _ in range(100):
            phi, _, told = update(phi)
        after, _ = ravel_pytree(phi)
        assert gained(after) > before + 0.05
        assert told["phi/objective"] > before
        # Adam's first step is the sign of the gradient: opposite to it phi must not move.
        once, _ = ravel_pytree(update(unravel(flat))[0])
        for i in np.linspace(0, len(flat) - 1, 40).astype(int):
            slope = finite_difference(gained, flat, i)
            if abs(slope) > 1e-5:
                assert np.sign(once[i] - flat[i]) == np.sign(slope)


def test_the_best_discriminator_knows_how_often_each_side_shows_a_pair():
    """On four pairs D's optimum is p / (p + q) (Ho & Ermon 2016): the known answer."""
    env = two_states()
    follower = FOLLOWERS["gail"](env, FollowerSettings(phi_lr=1e-2, phi_steps=2000))
    policy = pairs([0, 0, 0, 1], [1, 0, 0, 1])
    expert = pairs([0, 0, 0, 1], [1, 1, 0, 1])
    update = jax.jit(
        lambda phi, opt: follower.update(KEY, phi, opt, leader_of(env), policy, expert)
    )
    phi, _, _ = update(*follower.init(KEY))
    asked = pairs([0, 0, 1], [1, 0, 1])
    D = jax.nn.sigmoid(-follower.reward(phi, leader_of(env), asked))
    np.testing.assert_allclose(D, [1 / 3, 2 / 3, 1 / 2], atol=0.02)


def test_the_leaders_gradient_is_the_policy_gradient_by_finite_differences():
    """At ratio 1 PPO's gradient is that of mean A log pi; here against central differences."""
    env = two_states()
    with jax.enable_x64(True):
        policy = make_policy(env)
        theta = {"policy": policy.init(KEY), "value": {}}
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), theta)
        s, a = MIXED.s.astype(float), MIXED.a
        A = jnp.array([1.0, -1.0, 2.0, -2.0])
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(theta["policy"], s, a)
        batch = Batch(s, a, log_prob, A, jnp.zeros(4))
        loss = make_loss(TINY, policy, lambda theta, s: jnp.zeros(len(s)))
        grads, _ = ravel_pytree(jax.grad(lambda t: loss(t, batch)[0])(theta))
        flat, unravel = ravel_pytree(theta)
        scaled = A / (A.std() + 1e-8)

        @jax.jit
        def expected(flat):
            theta = unravel(flat)["policy"]
            return -jnp.mean(scaled * jax.vmap(policy.log_prob, (None, 0, 0))(theta, s, a))

        for i in np.linspace(0, len(flat) - 1, 60).astype(int):
            np.testing.assert_allclose(grads[i], finite_difference(expected, flat, i), atol=1e-5)


@pytest.mark.parametrize("name", [*LEARNED, "constant_reward", "blind"])
def test_the_reward_is_constant_for_the_leader(name):
    env = two_states()
    policy = make_policy(env)
    follower = FOLLOWERS[name](env, FollowerSettings(state_gradient=True))
    phi, _ = follower.init(KEY)

    def paid(theta):
        return follower.reward(phi, leader_of(env, theta), MIXED).sum()

    gradient = jax.jit(jax.grad(paid))(policy.init(KEY))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", LEARNED)
def test_a_follower_tells_the_sides_apart_and_pays_for_the_experts(name):
    env = two_states()
    settings = FollowerSettings(phi_lr=1e-2, phi_steps=20, rule_lr=1e-2, penalty=0.1)
    follower = FOLLOWERS[name](env, settings)
    phi, opt = follower.init(KEY)
    policy = pairs([0] * 8, [0] * 8)
    expert = pairs([0] * 8, [1] * 8)
    update = jax.jit(
        lambda phi, opt: follower.update(KEY, phi, opt, leader_of(env), policy, expert)
    )
    for _ in range(20):
        phi, opt, told = update(phi, opt)
    ours, theirs = (follower.reward(phi, leader_of(env), p).mean() for p in (policy, expert))
    assert theirs > ours + 0.5
    assert told["phi/accuracy"] == 1


def test_a_pair_is_drawn_as_often_as_it_weighs_and_never_without_weight():
    weight = jnp.array([0.0, 1.0, 3.0, 0.0])
    rows = MIXED._replace(reward=jnp.arange(4.0), weight=weight)
    drawn = np.bincount(np.asarray(draw_pairs(KEY, rows, 40_000).reward, int), minlength=4)
    np.testing.assert_allclose(drawn / 40_000, weight / 4, atol=0.01)
    assert drawn[0] == drawn[3] == 0


def test_l2l_gail_sees_the_leader_and_gail_does_not():
    env = two_states()
    for name, sees in (("gail", False), ("l2l_gail", True), ("airl_like", True)):
        follower = FOLLOWERS[name](env, FollowerSettings())
        phi, _ = follower.init(KEY)
        sure = jax.tree.map(lambda leaf: leaf + 0.5, make_policy(env).init(KEY))
        a, b = (follower.reward(phi, leader_of(env, t), MIXED) for t in (None, sure))
        assert bool(jnp.any(jnp.abs(a - b) > 1e-6)) == sees


def test_the_gradient_that_l2l_gail_sees_has_one_scale_for_both_sides():
    """A scale for each side, or each call, would say which side a pair comes from."""
    settings = FollowerSettings(phi_lr=0.0, state_gradient=True)
    follower = FOLLOWERS["l2l_gail"](two_states(), settings)
    policy = pairs([0, 1], [0, 1])
    expert = policy._replace(s=10 * policy.s)

    def leader(s, a):
        return jnp.sum(s**2) / 2  # its gradient is s

    update = jax.jit(lambda phi, opt: follower.update(KEY, phi, opt, leader, policy, expert))
    phi, _, told = update(*follower.init(KEY))
    h, h_expert = (-follower.reward(phi, leader, side) for side in (policy, expert))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), policy, expert)
    together = -follower.reward(phi, leader, both)
    np.testing.assert_allclose(together, jnp.concatenate([h, h_expert]), rtol=1e-6)
    said = jnp.mean(jax.nn.log_sigmoid(h)) + jnp.mean(jax.nn.log_sigmoid(-h_expert))
    np.testing.assert_allclose(told["phi/objective"], said, rtol=1e-6)


def test_the_usage_of_a_turn_names_everything_that_it_needs():
    asked = inspect.signature(make_turn).parameters.values()
    named = [p.name for p in asked if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    assert named and all(f"{name}=" in training.__doc__ for name in named), named


def test_airl_like_is_paid_f_minus_log_pi():
    env = two_states()
    plain, airl = (FOLLOWERS[name](env, FollowerSettings()) for name in ("gail", "airl_like"))
    phi, _ = plain.init(KEY)
    log_pi = jax.vmap(leader_of(env))(MIXED.s, MIXED.a)
    difference = plain.reward(phi, None, MIXED) - airl.reward(phi, leader_of(env), MIXED)
    np.testing.assert_allclose(difference, log_pi, atol=1e-6)


def test_rewards_are_those_of_d():
    h = jnp.linspace(-4, 4, 9)
    D = jax.nn.sigmoid(h)
    np.testing.assert_allclose(REWARDS["airl"](h), jnp.log(1 - D) - jnp.log(D), atol=1e-4)
    np.testing.assert_allclose(REWARDS["gail"](h), -jnp.log(D), atol=1e-5)
    np.testing.assert_allclose(REWARDS["negative"](h), jnp.log(1 - D), atol=1e-5)
    for name, form in REWARDS.items():
        blind = FOLLOWERS["blind"](two_states(), FollowerSettings(reward=name))
        np.testing.assert_allclose(blind.reward({}, None, MIXED), form(jnp.zeros(4)), atol=1e-6)
    constant = FOLLOWERS["constant_reward"](two_states(), FollowerSettings())
    ended = MIXED._replace(absorbing=jnp.array([0.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(
        constant.reward({}, None, ended), math.log(2) * jnp.array([1, 0, 1, 1])
    )


def test_advantages_are_the_sums_by_hand():
    ppo = PPO(gamma=0.5, lam=0.5)
    rewards, values = jnp.array([[1.0], [2.0], [4.0]]), jnp.array([[1.0], [1.0], [1.0]])
    following = jnp.array([[1.0], [8.0], [1.0]])
    terminated, done = jnp.array([[0.0], [0.0], [1.0]]), jnp.array([[False], [True], [True]])
    # 4 - 1 at a termination; 2 + 0.5 * 8 - 1 where time is up; 1 + 0.5 - 1 and a quarter of that.
    expected = [[0.5 + 0.25 * 5.0], [5.0], [3.0]]
    found = advantages(ppo, rewards, values, following, terminated, done)
    np.testing.assert_allclose(found, expected)


def test_an_absorbing_pair_counts_where_an_episode_terminated():
    env = two_states()
    ones = jnp.ones((3, 2))
    terminated = jnp.array([[False, False], [True, False], [False, False]])
    seen = Rollout(
        jnp.ones((3, 2, 2)),
        jnp.ones((3, 2), jnp.int32),
        ones,
        ones,
        terminated,
        terminated.at[2, 1].set(True),
        jnp.ones((3, 2, 2)),
        ones,
    )
    acted, ended = own_pairs(env, seen)
    np.testing.assert_array_equal(ended.weight, terminated.reshape(-1))
    assert not ended.s.any() and ended.absorbing.all() and not acted.absorbing.any()
    d = Demonstrations("two", np.ones((5, 2)), np.ones(5, int), [2, 3], np.array([True, False]), [])
    shown = expert_pairs(d)
    assert len(shown.s) == 6 and shown.absorbing.sum() == 1


def test_rewards_are_divided_by_the_spread_of_their_discounted_sums():
    zero = jnp.zeros(())
    moments = Moments(zero, zero, zero, jnp.zeros(4))
    rewards = jax.random.normal(KEY, (50, 4))
    done = jnp.arange(50)[:, None] % 10 == jnp.arange(4)
    kept, seen = [], np.zeros(4)
    for r, d in zip(np.asarray(rewards), np.asarray(done), strict=True):
        seen = 0.9 * seen + r
        kept.append(seen.copy())
        seen[d] = 0
    halves = rewards[:20], rewards[20:]
    moments, _ = normalise(moments, halves[0], done[:20], 0.9)
    moments, scaled = normalise(moments, halves[1], done[20:], 0.9)
    np.testing.assert_allclose(moments.mean, np.mean(kept), atol=1e-5)
    np.testing.assert_allclose(moments.variance, np.var(kept), rtol=1e-4)
    np.testing.assert_allclose(scaled, halves[1] / np.std(kept), rtol=1e-4)


@gymnax
@pytest.mark.parametrize("name", TASKS)
def test_a_policys_likelihood_is_that_of_what_it_samples(name):
    env = make_environment(name)
    policy = make_policy(env)
    theta = jax.tree.map(lambda leaf: leaf + 0.1, policy.init(KEY))
    s, state = env.reset(KEY)

    @jax.jit
    def sampled(s):
        a = jax.vmap(lambda rng: policy.sample(rng, theta, s))(jax.random.split(KEY, 20_000))
        return (
            a,
            jax.vmap(lambda a: policy.log_prob(theta, s, a))(a).mean(),
            policy.entropy(theta, s),
        )

    a, log_prob, entropy = sampled(s)
    assert -log_prob == pytest.approx(float(entropy), abs=0.03)
    if env.actions:
        every = jax.vmap(lambda a: policy.log_prob(theta, s, a))(jnp.arange(env.actions))
        assert jnp.exp(every).sum() == pytest.approx(1, abs=1e-5)
    after = env.step(KEY, state, a[0])
    assert after.s.shape == (env.d,) and after.reward.shape == ()
    assert env.encode(a[0]).shape == (env.width,)
    assert jax.tree.map(jnp.shape, after.state) == jax.tree.map(jnp.shape, state)


def test_episodes_end_where_the_task_ends_them():
    env = two_states(horizon=4)
    found = play(KEY, env, lambda rng, s: jnp.asarray(1), 3)
    np.testing.assert_array_equal(found.alive, np.ones((3, 4), bool))
    np.testing.assert_array_equal(found.total, [4, 4, 4])


@gymnax
def test_a_pole_that_is_pushed_one_way_falls_and_ends_the_episode():
    cart = make_environment("CartPole-v1")
    fell = play(KEY, cart, lambda rng, s: jnp.asarray(1), 5)
    assert fell.terminated.all() and (fell.alive.sum(1) == fell.total).all()
    assert 5 < fell.total.mean() < 20


def test_imitation_learns_on_two_states_and_seeds_together_are_seeds_alone():
    env = two_states()
    policy = make_policy(env)
    follower = FOLLOWERS["gail"](env, FollowerSettings(phi_lr=1e-2, phi_steps=5))
    ppo = PPO(theta_lr=1e-2)
    turn = make_turn(env, policy, follower, ppo, copies=4, steps=16, absorbing=True)
    start = jax.vmap(lambda seed: init_state(seed, env, policy, follower, ppo, 4))
    both, alone = start(jnp.array([3, 4])), start(jnp.array([4, 4]))
    turn = jax.jit(jax.vmap(turn, (0, None)))
    for i in range(60):
        both, told = turn(both, EXPERT)
        if i < 5:
            alone, _ = turn(alone, EXPERT)
            for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(alone), strict=True):
                np.testing.assert_allclose(a[1], b[0], atol=1e-5)
    assert (told["return"] > 3.6).all()
    assert int(both.step[0]) == 60


def test_every_follower_plays_a_turn_that_leaves_the_state_as_it_was_shaped():
    env, ppo = two_states(), PPO(epochs=1, minibatches=1)
    policy = make_policy(env)
    for name, make in FOLLOWERS.items():
        for settings in (FollowerSettings(), FollowerSettings(state_gradient=True, unroll=1)):
            follower = make(env, settings)
            turn = make_turn(env, policy, follower, ppo, copies=2, steps=3, absorbing=True)
            state = jax.eval_shape(lambda f=follower: init_state(0, env, policy, f, ppo, 2))
            after, metrics = jax.eval_shape(turn, state, EXPERT)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
                lambda a: (a.shape, a.dtype), state
            ), name
            assert ("phi/accuracy" in metrics) == (name in LEARNED)


def test_cloning_finds_the_experts_actions():
    env = two_states()
    policy = make_policy(env)
    ended = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), EXPERT, pairs([0], [0], [1.0]))
    how = {"steps": 300, "batch": 8, "lr": 1e-2}
    theta, losses = jax.jit(lambda theta: clone(KEY, policy, theta, ended, **how))(policy.init(KEY))
    assert losses[-1] < 0.05 < losses[0]
    assert play(KEY, env, lambda rng, s: policy.mode(theta, s), 1).total[0] == 4


def test_the_first_trajectories_and_no_more():
    found = Demonstrations(
        "two", np.arange(10).reshape(5, 2), np.arange(5), np.array([2, 3]), np.ones(2), np.ones(2)
    )
    assert len(first_trajectories(found, 1).s) == 2 and len(first_trajectories(found, 2).s) == 5
    for n in (0, 3):
        with pytest.raises(ValueError, match="1 to 2 are there"):
            first_trajectories(found, n)
    assert no_pairs(two_states()).weight.sum() == 0
    assert draw_pairs(KEY, EXPERT, 7).s.shape == (7, 2)
