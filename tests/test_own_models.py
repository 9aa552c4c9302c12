"""A user's own model trains as it says, on one device and on several, or is refused in one line."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from games import method_of
from l2ljax.apply import as_apply, functional, functional_nnx, initialise
from l2ljax.bilevel import init_state, make_step, outside
from l2ljax.devices import AXIS, is_mapped
from l2ljax.errors import InputError
from l2ljax.models import make_classifier
from l2ljax.parallel import ONE_DEVICE
from own_models import KINDS, LINEN, Nnx, Train, build, images, largest, play
from processes import launch

KEY = jax.random.key(0)
X, Y = images()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_moves_weights_and_statistics_and_draws_dropout(kind):
    before, after = play(kind, ONE_DEVICE)
    moved = [
        bool((a != b).any())
        for a, b in zip(*(jax.tree.leaves(s.theta_stats) for s in (before, after)), strict=True)
    ]
    assert all(moved) and len(moved) == (0 if kind == "no switch" else 2)
    assert largest(before, after) > 1e-3
    other = play(kind, ONE_DEVICE, seed=3)[1]
    weights = [jax.tree.leaves(s.theta)[-1] for s in (after, other)]
    assert bool((weights[0] != weights[1]).any())  # another mask, or another random start


@pytest.mark.parametrize("kind", KINDS)
def test_eval_mode_uses_running_statistics_and_draws_nothing(kind):
    f, theta, stats = build(kind)
    shifted = jax.tree.map(lambda s: s + 1.0, stats)
    plain, kept = f(theta, stats, X, "eval")
    again = f(theta, stats, X[:4], "eval")[0]
    np.testing.assert_allclose(plain[:4], again, atol=1e-6)
    assert kept is stats
    if stats:
        assert bool((f(theta, shifted, X, "eval")[0] != plain).any())


def test_update_keeps_more_statistics_than_batch():
    (_, batch), (_, update) = (play("train", ONE_DEVICE, craft_bn=bn) for bn in ("batch", "update"))
    pairs = zip(*(jax.tree.leaves(s.theta_stats) for s in (batch, update)), strict=True)
    assert all(bool((a != b).any()) for a, b in pairs)


def test_two_devices_compute_the_step_of_one(tmp_path):
    out = tmp_path / "found.json"
    process = launch("tests/own_models.py", out, devices=2)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    found = json.loads(out.read_text())
    assert set(found) == set(KINDS)
    for kind, (apart, moved, under_pmap) in found.items():
        assert moved > 1e-3 and apart < 1e-5 * moved + 1e-6, kind
        if kind == "no switch":
            assert under_pmap < 1e-5 * moved + 1e-6
        else:
            assert "under pmap: its statistics" in under_pmap and "\n" not in under_pmap, kind
            assert "--parallel=sharding" in under_pmap


class Deaf(nn.Module):
    """Statistics, and nothing that says whether it trains."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.BatchNorm(use_running_average=False)(x.reshape(len(x), -1)))


class Misspelt(nn.Module):
    @nn.compact
    def __call__(self, x, learning=False):
        return nn.Dense(10)(nn.BatchNorm(not learning)(x.reshape(len(x), -1)))


@pytest.mark.parametrize("net", [Deaf(), Misspelt()])
def test_statistics_without_a_known_switch_are_refused_at_once(net):
    with pytest.raises(ValueError, match="an argument train.*use_running_average=not train"):
        initialise(net, KEY, X)
    variables = dict(net.init(KEY, X))
    with pytest.raises(ValueError, match="an argument train"):
        functional(net)(variables.pop("params"), variables, X, "eval")


class OnAnAxis(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        h = nn.BatchNorm(not train, axis_name="batch")(x.reshape(len(x), -1))
        return nn.Dense(10)(h)


class Noisy(nn.Module):
    """Draws in eval mode too."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(10)(x.reshape(len(x), -1))
        return h + jax.random.normal(self.make_rng("noise"), h.shape)


def test_what_cannot_be_served_says_how_to_write_it():
    theta, stats = initialise(OnAnAxis(), KEY, X)
    with pytest.raises(ValueError, match="leave axis_name out"):
        functional(OnAnAxis())(theta, stats, X, "update")
    theta, stats = initialise(Noisy(), KEY, X)
    with pytest.raises(ValueError, match="draws random numbers in eval mode"):
        functional(Noisy())(theta, stats, X, "eval")
    theta, stats = initialise(Train(), KEY, X)
    with pytest.raises(ValueError, match="give f a key"):
        functional(Train())(theta, stats, X, "batch")
    f, theta, stats = functional_nnx(Nnx(nnx.Rngs(0)))
    with pytest.raises(ValueError, match="give f a key"):
        f(theta, stats, X, "batch")
    with pytest.raises(ValueError, match="there is functional_nnx"):
        functional(Nnx(nnx.Rngs(0)))
    with pytest.raises(ValueError, match="is a class: pass a module"):
        functional(Train)
    with pytest.raises(ValueError, match="no flax.nnx model: use functional"):
        functional_nnx(Train())
    for wrong, line in ((Train, "is a class: pass a module"), (7, "no flax.nnx model")):
        with pytest.raises(InputError, match=line):
            as_apply(wrong, KEY, X)


class Wide(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(nn.BatchNorm(not train)(nn.Dense(24)(x.reshape(len(x), -1))))


def test_weights_of_another_model_are_refused_in_one_line():
    theta, stats = initialise(Wide(), KEY, X)
    with pytest.raises(ValueError, match="not those of this Train for inputs .*shape") as raised:
        functional(Train())(theta, stats, X, "eval")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="not those of this Train"):
        functional(Train())(theta, {}, X, "eval")


def test_the_nnx_model_itself_stays_as_it_was():
    model = Nnx(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    f, theta, stats = functional_nnx(model)
    f(theta, stats, X, "update", KEY)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert model.drop.deterministic is False


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1)), x


class Hidden(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x)


@pytest.mark.parametrize(
    "net, line",
    [(Pair(), "returns a tuple: .* the logits alone"), (Hidden(), r"logits \[N, K\].*returns")],
)
def test_a_step_refuses_a_model_that_gives_no_logits(net, line):
    sgd, method = optax.sgd(0.1), method_of("fgsm")
    theta, stats = initialise(net, KEY, X)
    state = init_state(KEY, theta, stats, method, sgd, sgd, X)
    with pytest.raises(ValueError, match=line):
        make_step(functional(net), method, sgd, sgd, eps=0.1)(state, (X, Y), KEY)


class Reducing(nn.Module):
    """Its BatchNorm asks whether it is mapped over devices."""

    @nn.compact
    def __call__(self, x, train):
        axis_name = AXIS if is_mapped() else None
        h = nn.BatchNorm(not train, momentum=0.9, axis_name=axis_name)(x.reshape(len(x), -1))
        return nn.Dense(10)(h)


def step_on_two(f, theta, stats):
    """The states of two devices after one step, each with half of the batch; as pmap maps it."""
    sgd, method = optax.sgd(0.1), method_of("plain")
    state = init_state(KEY, theta, stats, method, sgd, sgd, X)
    step = make_step(f, method, sgd, sgd, eps=0.1)
    halves = [rows.reshape(2, -1, *rows.shape[1:]) for rows in (X, Y)]
    both = jax.vmap(lambda x, y: step(state, (x, y), KEY)[0], axis_name=AXIS)
    return jax.jit(both)(*halves)


def test_what_is_mapped_over_devices_reduces_its_statistics_or_is_refused():
    for net in (Reducing(), LINEN["no switch"], make_classifier("wrn-10-1", 10, width=1 / 16)):
        after = step_on_two(functional(net), *initialise(net, KEY, X))
        for leaf in jax.tree.leaves((after.theta, after.theta_stats)):
            np.testing.assert_array_equal(leaf[0], leaf[1])
    with pytest.raises(InputError, match="Train under pmap: .* take --parallel=sharding"):
        step_on_two(*build("train"))
    with pytest.raises(InputError, match="the model under pmap: .* take --parallel=sharding"):
        step_on_two(*build("nnx"))


class Dropping(nn.Module):
    """Flax's own dropout, or noise of a stream of its own."""

    noisy: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        if self.noisy and train:
            return x + jax.random.normal(self.make_rng("noise"), x.shape)
        return nn.Dropout(0.5, deterministic=not train)(x)


class DroppingNnx(nnx.Module):
    def __init__(self):
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.drop(x.reshape(len(x), -1))


def dropping(theta, stats, x, mode, rng=None):
    """An apply written by hand."""
    return jax.random.bernoulli(rng, 0.5, (len(x), 64)) * x.reshape(len(x), -1), stats


@pytest.mark.parametrize(
    "f",
    [
        functional(Dropping()),
        functional(Dropping(noisy=True)),
        functional_nnx(DroppingNnx())[0],
        dropping,
    ],
)
def test_every_device_draws_a_mask_of_its_own(f):
    forward = outside(f, "update", KEY)
    alike = jnp.ones((3, 8, 8, 8, 1))
    logits = jax.vmap(lambda x: forward({}, {}, x)[0], axis_name=AXIS)(alike)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert bool((logits[a] != logits[b]).any())


def test_the_packages_dropout_draws_by_the_row_of_the_whole_batch():
    net = make_classifier("small_cnn", 10, width=1 / 8)
    theta, stats = initialise(net, KEY, X)
    forward = outside(functional(net), "update", KEY)
    whole = forward(theta, stats, X, features=True)[0]
    split = X.reshape(2, -1, *X.shape[1:])
    parts = jax.vmap(lambda x: forward(theta, stats, x, features=True)[0], axis_name=AXIS)(split)
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)


def test_a_donated_state_leaves_the_callers_weights_alone():
    f, theta, stats = build("train")
    sgd, method = optax.sgd(0.1), method_of("plain")
    state = init_state(KEY, theta, stats, method, sgd, sgd, X)
    jax.jit(make_step(f, method, sgd, sgd, eps=0.1), donate_argnums=0)(state, (X, Y), KEY)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((theta, stats)))


def test_the_copy_of_donated_weights_is_a_model():
    f, theta, stats = build("nnx")
    assert jnp.isfinite(f(theta, stats, X, "eval")[0]).all()
