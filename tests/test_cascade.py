"""Runs over a set: who is attacked, what counts, and that an interrupt changes nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.attacks import checks, pgd
from l2ljax.attacks.cascade import CLEAN, STANDS, Run, cascade, share_of_work

EPS, N = 0.1, 40
KEY = jax.random.key(1)
SETTINGS = {"eps": EPS, "norm": "linf", "batch_size": 16}


def f(x):
    """Two classes: is the first pixel below one half?"""
    first = x[:, 0, 0, 0] - 0.5
    return jnp.stack([-first, first], -1)


@pytest.fixture
def images():
    """First pixels from 0 to 1 in steps of 1/39: every class right, four images near the border."""
    x = np.full((N, 2, 2, 1), 0.5, np.float32)
    x[:, 0, 0, 0] = np.linspace(0, 1, N)
    return x, (x[:, 0, 0, 0] > 0.5).astype(np.int64)


def push(far):
    """An attack that moves the first pixel across the border, if `far` is enough."""

    def play(rng, f, x, y, *, eps, norm):
        step = jnp.where(y == 1, -far, far)
        return x.at[:, 0, 0, 0].add(step)

    return play


def heard(runs, images, **settings):
    states = []
    given = SETTINGS | settings

    def listen(state):
        states.append((state.run, state.position, int(state.robust.sum())))

    return cascade(KEY, f, *images, runs, on_progress=listen, **given), states


def test_an_image_falls_in_the_first_run_that_fools_the_classifier(images):
    runs = [Run("near", push(0.05)), Run("far", push(0.099))]
    state, _ = heard(runs, images, keep=True)
    distance = np.abs(images[0][:, 0, 0, 0] - 0.5)
    expected = np.where(distance < 0.05, 0, np.where(distance < 0.099, 1, STANDS))
    np.testing.assert_array_equal(state.fell, expected)
    assert state.after(CLEAN) == 1
    assert state.after(0) == (distance >= 0.05).mean() > state.after(1) == state.robust.mean()
    moved = state.x_adv != images[0]
    np.testing.assert_array_equal(moved.any((1, 2, 3)), ~state.robust)
    assert state.largest == pytest.approx(0.099, abs=1e-6) and state.refused == 0
    assert state.low <= state.x_adv[moved].min() and state.high >= state.x_adv[moved].max()


def test_each_run_sees_the_survivors_alone_in_full_batches(images):
    seen = []

    def play(rng, f, x, y, *, eps, norm):
        seen.append((np.asarray(x[:, 0, 0, 0]), len(rng), eps, norm))
        return x

    x, y = images
    wrong = np.arange(N) % 4 == 0
    runs = [Run("first", push(0.09)), Run("second", play, eps=0.3)]
    state, _ = heard(runs, (x, np.where(wrong, 1 - y, y)))
    assert state.fell[wrong].tolist() == [CLEAN] * 10
    survivors = np.flatnonzero(state.fell > 0)
    assert [len(pixels) for pixels, *_ in seen] == [16, 16]
    real = np.concatenate([pixels for pixels, *_ in seen])[: len(survivors)]
    np.testing.assert_array_equal(real, x[survivors, 0, 0, 0])
    assert {(n, eps, norm) for _, n, eps, norm in seen} == {(16, 0.3, "linf")}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, y: push(0.2)(None, None, x, y, eps=EPS, norm="linf"),
        lambda x, y: x.at[:, 1].add(jnp.where(x[:, 1] > 2, 0, 0.6)),
        lambda x, y: x * jnp.nan,
        lambda x, y: x.at[:, 0, 0, 0].set(jnp.inf),
    ],
    ids=["outside the ball", "outside the box", "nan", "inf"],
)
def test_a_claim_that_breaks_the_rules_is_refused(images, spoil):
    x, y = images
    play = Run("spoilt", lambda rng, f, x, y, *, eps, norm: spoil(x, y))
    # Whatever it is given, this classifier calls a moved image wrong.
    fooled = Run("clean", play.play)
    state = cascade(
        KEY,
        lambda v: jnp.where((v[:, 1, 1, 0] != 0.5)[:, None], -f(v), f(v)),
        x,
        y,
        [fooled],
        **SETTINGS,
    )
    changed = ~state.robust
    assert not changed.any() and state.refused > 0


def test_the_l2_ball_is_measured_in_l2(images):
    x, y = images

    def play(rng, f, x, y, *, eps, norm):
        others = (x + 0.06).at[:, 0, 0, 0].set(x[:, 0, 0, 0])
        return push(0.06)(rng, f, others, y, eps=eps, norm=norm)

    runs = [Run("wide", play)]
    assert heard(runs, (x, y))[0].fell.min() == 0
    l2, _ = heard(runs, (x, y), norm="l2")
    assert l2.robust.all() and l2.refused > 0
    assert heard(runs, (x, y), norm="l2", eps=0.3)[0].fell.min() == 0


def test_the_search_computes_in_true_float32_as_the_judge_does(images):
    """TF32 and bfloat16 products, the defaults of accelerators, would end it on other claims."""
    seen = []

    def play(rng, f, x, y, *, eps, norm):
        seen.append(jax.config.jax_default_matmul_precision)
        return x

    def product(x):
        seen.append(jax.config.jax_default_matmul_precision)
        return f(x)

    cascade(KEY, f, *images, [Run("first", play), Run("second", play)], **SETTINGS)
    assert set(seen) == {"highest"}
    seen.clear()
    cascade(KEY, product, *images, [], **SETTINGS)
    assert seen[-1] == "highest"


def random_push(rng, f, x, y, *, eps, norm):
    far = jax.vmap(lambda key: jax.random.uniform(key, (), maxval=2 * EPS))(rng)
    return push(far)(rng, f, x, y, eps=eps, norm=norm)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_and_packing_change_nothing(images, batch_size):
    runs = [Run("random", random_push, draw) for draw in range(3)]
    reference, _ = heard(runs, images)
    assert 0 < (reference.fell < STANDS).sum() < N and len(set(reference.fell.tolist())) > 2
    other, _ = heard(runs, images, batch_size=batch_size)
    np.testing.assert_array_equal(other.fell, reference.fell)


def test_an_interrupted_cascade_goes_on_where_it_was(images):
    runs = [Run("random", random_push, draw) for draw in range(3)]
    whole, states = heard(runs, images, keep=True)
    assert len(states) > 8
    for stop_at in range(len(states)):
        saved, played = [], []

        def stop(state, saved=saved, stop_at=stop_at):
            saved.append(jax.tree.map(np.array, state))
            if len(saved) == stop_at + 1:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            cascade(KEY, f, *images, runs, keep=True, on_progress=stop, **SETTINGS)
        rest = cascade(
            KEY,
            f,
            *images,
            runs,
            keep=True,
            state=saved[-1],
            on_progress=played.append,
            **SETTINGS,
        )
        np.testing.assert_array_equal(rest.fell, whole.fell)
        np.testing.assert_array_equal(rest.x_adv, whole.x_adv)
        assert rest[4:] == whole[4:]
        assert len(played) == len(states) - len(saved)


def test_a_finished_cascade_is_not_played_again(images):
    runs = [Run("near", push(0.05))]
    state, _ = heard(runs, images)
    again, states = heard(runs, images, state=state)
    assert states == [] and (again.fell == state.fell).all()


def test_a_state_of_other_images_is_refused(images):
    state, _ = heard([Run("near", push(0.05))], images)
    with pytest.raises(ValueError, match="of 40 images, not of 39"):
        heard([], tuple(v[1:] for v in images), state=state)


def test_a_model_that_is_never_right_ends_before_the_first_attack(images):
    x, y = images
    state, states = heard([Run("never", push(0.0))], (x, 1 - y), keep=True)
    assert (state.fell == CLEAN).all() and {run for run, *_ in states} == {CLEAN}
    np.testing.assert_array_equal(state.x_adv, x)


def test_one_survivor_is_attacked_in_a_batch_of_copies(images):
    x, y = images
    one = np.where(np.arange(N) == 20, y, 1 - y)
    state, states = heard([Run("near", push(0.05))], (x, one))
    assert state.fell[20] == 0 and states[-1] == (0, 1, 0)


def test_the_share_of_work_grows_to_one(images):
    runs = [Run("random", random_push, draw, cost=10.0) for draw in range(3)]
    shares = []

    def listen(state):
        shares.append(share_of_work(state, runs))

    state = cascade(KEY, f, *images, runs, on_progress=listen, **SETTINGS)
    assert shares == sorted(shares) and 0 < shares[0] < 0.1 and shares[-1] == pytest.approx(1)
    assert share_of_work(state, runs) == pytest.approx(1)


def pool(x):
    """`f`, whose gradient is NaN at an image with a black lower half: a norm has none at 0."""
    norm = jnp.sqrt((x[:, 1:] ** 2).sum((1, 2, 3)) + 0 * x.sum((1, 2, 3)))
    return f(x) + norm[:, None]


def test_an_image_that_stands_without_a_gradient_is_counted(images):
    x, y = images
    x[5, 1:] = x[20, 1:] = 0
    steps = {"steps": 2, "step_size": 0.06, "start": "zero", "loss": "ce"}
    runs = [Run("pgd", partial(pgd, **steps))]
    state = cascade(KEY, pool, x, y, runs, **SETTINGS)
    assert state.robust[[5, 20]].all() and not state.robust[19]
    assert state.nan_gradient == 2 and state.nan_logits == 0
    (line,) = checks.warnings_after(state)
    assert f"2 of the {state.robust.sum()} images that stand" in line and "NaN or infinite" in line


def test_nobody_looks_at_the_gradient_where_no_attack_follows_one(images):
    x, y = images
    x[:, 1:] = 0
    blind = [Run("push", push(0.05), gradient=False)]
    for runs in ([], blind):
        state = cascade(KEY, pool, x, y, runs, **SETTINGS)
        assert state.nan_gradient is None and checks.warnings_after(state) == ()
    looked = cascade(KEY, pool, x, y, [*blind, Run("stay", push(0.0))], **SETTINGS)
    assert looked.nan_gradient == looked.robust.sum() > 0
    again = cascade(KEY, pool, x, y, [*blind, Run("stay", push(0.0))], state=looked, **SETTINGS)
    assert again.nan_gradient == looked.nan_gradient


def test_clean_images_whose_logits_are_nan_are_counted(images):
    x, y = images

    def broken(x):
        return jnp.where((x[:, 0, 0, 0] > 0.9)[:, None], jnp.nan, f(x))

    state = cascade(KEY, broken, x, y, [], **SETTINGS)
    assert state.nan_logits == (x[:, 0, 0, 0] > 0.9).sum() == (~state.robust).sum()
    assert (
        f"the logits are NaN for {state.nan_logits} of 40 images" in checks.warnings_after(state)[0]
    )
