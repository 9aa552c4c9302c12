import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.apply import functional, initialise
from l2ljax.models import make_classifier
from l2ljax.models.residual import WideBlock

KEY = jax.random.key(0)
X = jax.random.uniform(jax.random.key(1), (6, 8, 8, 1))


class Small(nn.Module):
    """Dense, BatchNorm, dropout, dense, in the package's form."""

    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(4, dtype=self.dtype, name="stem")(x.reshape(len(x), -1))
        x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, name="bn")(x)
        off = not (train and self.has_rng("dropout"))
        x = nn.Dropout(self.dropout)(nn.relu(x), deterministic=off)
        return nn.Dense(10, dtype=self.dtype)(x).astype(jnp.float32)


@pytest.fixture(scope="module")
def net():
    return functional(Small()), *initialise(Small(), KEY, X)


class Plain(nn.Module):
    """A user's own: no `train`, no BatchNorm."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


class WithTrain(nn.Module):
    """A user's own: `train` passed by position, two collections of statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))
        seen = self.variable("counts", "seen", jnp.zeros, ())
        if train and not self.is_initializing():
            seen.value += len(x)
        return nn.Dense(3)(x)


class WithFeatures(nn.Module):
    """A user's own that has features: BatchNorm, then a head."""

    @nn.compact
    def __call__(self, x, train=False, features=False):
        h = nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))
        return h if features else nn.Dense(3, name="head")(h)


class FrozenBatchNorm(nn.Module):
    """A user's own: statistics that no mode changes."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(x.reshape(len(x), -1)))


def wide_block(dropout):
    return WideBlock(4, stride=2, dropout=dropout, dtype=jnp.float32)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda u, v: bool((u == v).all()), a, b))


def test_eval_and_batch_return_the_statistics_they_were_given(net):
    f, theta, stats = net
    for mode in ("eval", "batch"):
        assert f(theta, stats, X, mode)[1] is stats


def test_update_moves_every_statistic_a_tenth_of_the_way_to_the_batch(net):
    f, theta, stats = net
    _, updated = f(theta, stats, X, "update")
    assert jax.tree.structure(updated) == jax.tree.structure(stats)
    h = X.reshape(len(X), -1) @ theta["stem"]["kernel"] + theta["stem"]["bias"]
    got = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(got["mean"], 0.1 * h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["var"], 0.9 + 0.1 * h.var(0), rtol=1e-4)


def test_batch_and_update_give_the_same_logits_and_eval_others(net):
    f, theta, stats = net
    logits = {mode: f(theta, stats, X, mode)[0] for mode in ("eval", "batch", "update")}
    np.testing.assert_array_equal(logits["batch"], logits["update"])
    assert jnp.abs(logits["eval"] - logits["batch"]).max() > 1e-3


def test_eval_of_a_batch_is_eval_of_its_images_and_batch_mode_is_not(net):
    f, theta, stats = net
    _, stats = f(theta, stats, X, "update")
    for mode, same in (("eval", True), ("batch", False)):
        whole = f(theta, stats, X, mode)[0]
        parts = jnp.concatenate([f(theta, stats, X[i : i + 1], mode)[0] for i in range(len(X))])
        assert (np.abs(whole - parts).max() < 1e-5) == same


def test_unknown_mode_is_refused(net):
    f, theta, stats = net
    with pytest.raises(ValueError, match="eval, batch, update"):
        f(theta, stats, X, "train")


def test_f_works_under_jit_grad_and_as_a_static_argument(net):
    f, theta, stats = net
    traces = []

    def loss(theta, stats, x, f):
        traces.append(f)
        logits, stats = f(theta, stats, x, "update")
        return logits[:, 0].sum(), stats

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnames="f")
    for g in (f, functional(Small())):
        gradient, _ = step(theta, stats, X, f=g)
    assert len(traces) == 1, "equal modules must share one trace"
    assert jnp.abs(gradient["stem"]["kernel"]).max() > 0


def test_module_without_train_and_without_statistics():
    f, (theta, stats) = functional(Plain()), initialise(Plain(), KEY, X)
    assert stats == {}
    results = [f(theta, stats, X, mode) for mode in ("eval", "batch", "update")]
    for logits, after in results:
        np.testing.assert_array_equal(logits, results[0][0])
        assert after == {}


def test_module_with_several_collections_updates_all_of_them():
    f, (theta, stats) = functional(WithTrain()), initialise(WithTrain(), KEY, X)
    assert set(stats) == {"batch_stats", "counts"}
    assert f(theta, stats, X, "eval")[1]["counts"]["seen"] == 0
    assert f(theta, stats, X, "batch")[1]["counts"]["seen"] == 0
    assert f(theta, stats, X, "update")[1]["counts"]["seen"] == len(X)


@pytest.mark.parametrize("mode", ["eval", "batch", "update"])
def test_features_are_what_the_last_layer_sees_and_leave_the_statistics_alike(mode):
    f, (theta, stats) = functional(WithFeatures()), initialise(WithFeatures(), KEY, X)
    logits, after = f(theta, stats, X, mode)
    h, after_features = f(theta, stats, X, mode, features=True)
    np.testing.assert_allclose(h @ theta["head"]["kernel"], logits, atol=1e-5)
    assert equal(after, after_features)
    assert equal(after, stats) == (mode != "update")


@pytest.mark.parametrize("make", [Small, Plain])
def test_a_module_without_features_is_named_only_when_asked_for_them(make):
    f, (theta, stats) = functional(make()), initialise(make(), KEY, X)
    f(theta, stats, X, "eval", features=False)
    with pytest.raises(ValueError, match=f"{make.__name__} gives no features"):
        f(theta, stats, X, "eval", features=True)


def test_frozen_statistics_stay_in_every_mode():
    f, (theta, stats) = functional(FrozenBatchNorm()), initialise(FrozenBatchNorm(), KEY, X)
    for mode in ("eval", "batch", "update"):
        assert equal(f(theta, stats, X, mode)[1], stats)


@pytest.mark.parametrize("make", [Small, wide_block], ids=["own", "wrn"])
def test_dropout_follows_its_key_and_is_off_without_one(make):
    theta, stats = initialise(make(dropout=0.5), KEY, X)
    dropped, full = (
        jax.jit(functional(make(dropout=p)), static_argnames="mode") for p in (0.5, 0.0)
    )
    a, b = jax.random.split(KEY)
    off = full(theta, stats, X, "batch")[0]
    np.testing.assert_allclose(dropped(theta, stats, X, "batch")[0], off, atol=1e-6)
    one, again, other = (dropped(theta, stats, X, "batch", rng)[0] for rng in (a, a, b))
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).max() > 1e-3
    assert jnp.abs(one - off).max() > 1e-3
    still = dropped(theta, stats, X, "eval", a)[0]
    np.testing.assert_allclose(still, full(theta, stats, X, "eval")[0], atol=1e-6)


def test_bfloat16_computes_in_bfloat16_but_keeps_float32_state():
    def make(dtype):
        return make_classifier("wrn-10-1", 10, width=1 / 8, dtype=dtype)

    theta, stats = initialise(make(jnp.bfloat16), KEY, X)
    rough, exact = (
        jax.jit(functional(make(dtype)), static_argnames="mode")(theta, stats, X, "eval")[0]
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert 0 < jnp.abs(rough - exact).max() < 0.1 * jnp.abs(exact).max()

    def loss(theta):
        logits, after = functional(make(jnp.bfloat16))(theta, stats, X, "update")
        return logits.sum(), (logits, after)

    trees = jax.eval_shape(jax.grad(loss, has_aux=True), theta)
    leaves = jax.tree.leaves((trees, theta, stats))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_initialise_is_a_function_of_the_key_alone(net):
    _, theta, stats = net
    again = initialise(Small(), KEY, jnp.zeros((1, 8, 8, 1)))
    assert equal(again, (theta, stats))
    other, _ = initialise(Small(), jax.random.key(1), X)
    assert not (other["stem"]["kernel"] == theta["stem"]["kernel"]).any()


def test_initialise_gives_the_same_values_under_vmap(net):
    _, theta, _ = net
    seeds = jnp.stack([KEY, jax.random.key(1)])
    many, _ = jax.jit(jax.vmap(lambda key: initialise(Small(), key, X)))(seeds)
    np.testing.assert_allclose(many["stem"]["kernel"][0], theta["stem"]["kernel"], rtol=1e-6)
    assert not (many["stem"]["kernel"][0] == many["stem"]["kernel"][1]).any()
