import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from games import drawn
from l2ljax.apply import as_apply, functional, initialise
from l2ljax.checkpoint import Checkpoints
from l2ljax.devices import AXIS
from l2ljax.errors import CheckpointError, InputError
from l2ljax.models import MODELS, make_classifier
from l2ljax.models.classifiers import MLP
from l2ljax.models.residual import BasicBlock, PreActBlock, WideBlock

KEY = jax.random.key(0)
NAMES = [
    "wrn-10-1",
    "preact_resnet18",
    "preact_resnet18_gradalign",
    "resnet18",
    "resnet18_64",
    "small_cnn",
    "mlp",
]
RESIDUAL = NAMES[:5]


def tiny(name, **keywords):
    return make_classifier(name, 10, width=1 / 16, **keywords)


def parameters(module, shape):
    state = jax.eval_shape(lambda x: module.init(KEY, x, train=False), jnp.zeros((2, *shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(state["params"]))


def without_blocks(module):
    """f of the net whose residual blocks only give their input the shape that they owe."""
    f = functional(module)

    def shape_alone(run, args, kwargs, context):
        block = context.module
        if not isinstance(block, WideBlock | PreActBlock | BasicBlock):
            return run(*args, **kwargs)
        x = args[0][:, :: block.stride, :: block.stride]
        return jnp.tile(x, block.features // x.shape[-1])

    def apply(*args, **keywords):
        with nn.intercept_methods(shape_alone):
            return f(*args, **keywords)

    return apply


def test_every_model_in_the_table_is_tested_here():
    assert set(MODELS) == {"wrn-D-K", *NAMES[1:]}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("wrn-34-4", 7_399_130),
        ("wrn-34-10", 46_160_474),
        ("wrn-28-10", 36_479_194),
        ("wrn-16-8", 10_961_370),
        ("preact_resnet18", 11_172_170),
        ("preact_resnet18_gradalign", 11_171_146),
        ("resnet18", 11_173_962),
        ("resnet18_64", 11_173_962),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    assert parameters(make_classifier(name, 10), (32, 32, 3)) == count


def test_counts_of_the_small_networks_from_their_layers():
    convolutions = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 32 + 32 + 64 + 64
    dense = 64 * 4 * 4 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10
    assert parameters(make_classifier("small_cnn", 10), (28, 28, 1)) == convolutions + dense
    mlp = 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    assert parameters(make_classifier("mlp", 10), (8, 8, 1)) == mlp


def test_preact_count_from_its_layers():
    count, channels = 9 * 3 * 64, 64
    for features in (64, 128, 256, 512):
        for _ in range(2):
            count += 2 * channels + 9 * channels * features  # BN, conv
            count += 2 * features + 9 * features * features  # BN, conv
            count += channels * features if channels != features else 0
            channels = features
    count += 512 * 10 + 10
    without = make_classifier("preact_resnet18_gradalign", 10)
    assert parameters(without, (32, 32, 3)) == count
    assert parameters(make_classifier("preact_resnet18", 10), (32, 32, 3)) == count + 2 * 512


def test_last_batch_norm_and_relu_of_preact_stand_before_the_pooling():
    """Wong et al., Fast-BAT and N-FGSM have them, GradAlign has not."""
    x = jax.random.uniform(KEY, (4, 8, 8, 1))

    def features(name):
        theta, stats = drawn(tiny(name), x)
        if "bn" in theta:
            theta["bn"]["bias"] = jnp.linspace(-100.0, 0.0, theta["bn"]["bias"].size)
        f = without_blocks(tiny(name))
        return jax.jit(lambda theta: f(theta, stats, x, "batch", features=True)[0])(theta)

    h = features("preact_resnet18")
    assert not h[:, 0].any() and h[:, -1].any() and (h >= 0).all()
    assert (features("preact_resnet18_gradalign") < 0).any()


def initial(module, *paths):
    """What a few layers of the net start from; no other is drawn."""

    @jax.jit
    def draw():
        theta, picked = module.init(KEY, jnp.zeros((1, 8, 8, 1)), train=False)["params"], {}
        for *parents, last in paths:
            there, here = theta, picked
            for name in parents:
                there, here = there[name], here.setdefault(name, {})
            here[last] = there[last]
        return picked

    return draw()


def test_initial_values_of_gradaligns_preact_are_he_and_of_the_others_pytorchs():
    for name, he in (("preact_resnet18", False), ("preact_resnet18_gradalign", True)):
        blocks = ("group4_block2", "conv2"), ("group2_block1", "shortcut")
        theta = initial(make_classifier(name, 10, width=1 / 4), *blocks, ("head",))
        kernel = theta["group4_block2"]["conv2"]["kernel"]  # 128 channels in and out
        spread = np.sqrt((2 if he else 1 / 3) / (9 * 128))
        np.testing.assert_allclose(kernel.std(), spread, rtol=0.05)
        shortcut = theta["group2_block1"]["shortcut"]["kernel"]
        spread = np.sqrt(2 / 32 if he else 1 / 3 / 16)
        np.testing.assert_allclose(shortcut.std(), spread, rtol=0.15)
        spread = np.sqrt((2 if he else 1 / 3) / 128)
        np.testing.assert_allclose(theta["head"]["kernel"].std(), spread, rtol=0.1)
        assert bool(theta["head"]["bias"].any()) != he


def test_a_checkpoint_of_a_net_without_the_last_batch_norm_is_refused_in_one_line(tmp_path):
    """What `preact_resnet18` meant before it had the last BatchNorm."""
    theta, stats = initialise(tiny("preact_resnet18"), KEY, jnp.zeros((1, 8, 8, 1)))
    old_stats = {k: v for k, v in stats["batch_stats"].items() if k != "bn"}
    old = {"theta": {k: v for k, v in theta.items() if k != "bn"}, "stats": old_stats}
    wanted = {"theta": theta, "stats": stats["batch_stats"]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, old, {})
        message = r"another architecture: .*/bn/\w+ is absent there and float32\[32\] here"
        with pytest.raises(CheckpointError, match=message) as error:
            checkpoints.restore(jax.eval_shape(lambda: wanted))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_of_a_bfloat16_net_is_float32(name):
    """Logits are the float32 features through a float32 head, never rounded to bfloat16."""
    x = jax.random.uniform(KEY, (4, 8, 8, 1))
    module, last = tiny(name, dtype=jnp.bfloat16), "fc3" if name == "small_cnn" else "head"
    theta, stats = drawn(module, x)
    f = without_blocks(module)

    @jax.jit
    def both(theta):
        return tuple(f(theta, stats, x, "eval", features=features)[0] for features in (0, 1))

    logits, h = both(theta)
    assert logits.dtype == h.dtype == jnp.float32
    exact = np.asarray(h, float) @ np.asarray(theta[last]["kernel"], float)
    np.testing.assert_allclose(logits, exact + theta[last]["bias"], rtol=1e-5, atol=1e-6)

    f = functional(module)
    jaxpr = jax.make_jaxpr(lambda theta: f(theta, stats, x, "eval")[0])(theta)
    dot = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"][-1]
    assert {v.aval.dtype.name for v in (*dot.invars, *dot.outvars)} == {"float32"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 28, 1), (7, 17, 2)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_any_image_size_gives_float32_logits(name, shape, dtype):
    def run(x):
        return tiny(name, dtype=dtype).init_with_output(KEY, x, train=True)

    logits, state = jax.eval_shape(run, jnp.zeros((3, *shape)))
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", NAMES)
def test_features_are_what_the_head_sees_need_no_head_and_change_no_initial_value(name):
    x = jax.random.uniform(KEY, (3, 8, 8, 1))
    module, last = tiny(name), "fc3" if name == "small_cnn" else "head"

    @jax.jit
    def start():
        return [dict(module.init(KEY, x, train=False, features=how)) for how in (False, True)]

    stats, same_stats = start()
    theta, headless = stats.pop("params"), same_stats.pop("params")
    chex.assert_trees_all_equal(headless, {k: theta[k] for k in theta if k != last})
    chex.assert_trees_all_equal(same_stats, stats)
    assert last in theta

    @jax.jit
    def both(headless, head):
        f = without_blocks(module)
        h = f(headless, stats, x, "batch", features=True)[0]
        return f({**headless, last: head}, stats, x, "batch")[0], h @ head["kernel"] + head["bias"]

    logits, expected = both(headless, drawn(module, x)[0][last])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert jnp.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_are_float32_vectors(name, dtype):
    def run(x):
        return tiny(name, dtype=dtype).init_with_output(KEY, x, train=True, features=True)[0]

    h = jax.eval_shape(run, jnp.zeros((3, 8, 8, 1)))
    assert (h.ndim, h.shape[0], h.dtype) == (2, 3, jnp.float32)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_normalised_inside(name):
    x = jax.random.uniform(KEY, (2, 16, 16, 3))
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.4, 0.3])

    class Seen(Exception):
        """What the first layer gets."""

    def watch(run, args, kwargs, context):
        if isinstance(context.module, nn.Conv | nn.Dense):
            raise Seen(args[0])
        return run(*args, **kwargs)

    with nn.intercept_methods(watch), pytest.raises(Seen) as seen:
        tiny(name, mean=mean, std=std).init(KEY, x, train=False)
    (first_layer_input,) = seen.value.args
    expected = (np.asarray(x) - mean) / std
    np.testing.assert_allclose(first_layer_input.ravel(), expected.ravel(), rtol=1e-4, atol=1e-5)


def test_statistics_of_another_channel_count_are_refused():
    with pytest.raises(ValueError, match="mean has 3 values, the images 1 channels"):
        tiny("mlp", mean=(0.5,) * 3).init(KEY, jnp.zeros((2, 8, 8, 1)), train=False)


@pytest.mark.parametrize(("block", "raw"), [(WideBlock, False), (PreActBlock, True)])
def test_projection_shortcut_sees_the_activated_input_in_wrn_and_the_raw_one_in_preact(block, raw):
    fields = {"dropout": 0.0} if block is WideBlock else {}
    module = block(features=4, stride=2, dtype=jnp.float32, **fields)
    x = jax.random.normal(KEY, (2, 4, 4, 2))
    theta, stats = initialise(module, KEY, x)
    theta["bn1"]["bias"] = jnp.full(2, -100.0)  # every activation is zero
    out = jax.jit(lambda x: functional(module)(theta, stats, x, "eval")[0])(x)
    assert bool(jnp.abs(out).max() > 0.1) == raw


def map_sizes(name, side):
    """The height of what every convolution returns, shortcuts left out."""
    sizes = []

    def watch(run, args, kwargs, context):
        out = run(*args, **kwargs)
        if isinstance(context.module, nn.Conv) and "shortcut" not in context.module.name:
            sizes.append(out.shape[1])
        return out

    with nn.intercept_methods(watch):
        x = jnp.zeros((1, side, side, 3))
        jax.eval_shape(lambda x: tiny(name).init(KEY, x, train=False), x)
    return sizes


def test_downsampling_follows_the_published_strides():
    of_resnets = [32] * 5 + [16] * 4 + [8] * 4 + [4] * 4
    assert map_sizes("wrn-10-1", 32) == [32, 32, 32, 16, 16, 8, 8]
    assert map_sizes("small_cnn", 32) == [30, 28, 12, 10]
    for name in ("resnet18", "preact_resnet18", "preact_resnet18_gradalign"):
        assert map_sizes(name, 32) == of_resnets
    assert map_sizes("resnet18_64", 64) == of_resnets


def test_initial_values_of_wrn():
    layers = [(f"group{g}_block1", layer) for g in (1, 2, 3) for layer in ("conv2", "shortcut")]
    theta = initial(make_classifier("wrn-10-4", 10), *layers, ("head",))
    for group, features in ((1, 64), (2, 128), (3, 256)):
        kernel = theta[f"group{group}_block1"]["conv2"]["kernel"]
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * features)), rtol=0.05)
        shortcut = theta[f"group{group}_block1"]["shortcut"]["kernel"]
        np.testing.assert_allclose(shortcut.std(), np.sqrt(2 / features), rtol=0.1)
        # Gaussian: a truncated normal would end at 2.28 of its standard deviations.
        assert jnp.abs(kernel).max() > 3 * kernel.std()
    assert not theta["head"]["bias"].any()
    bound = 1 / np.sqrt(256)
    assert 0.98 * bound < jnp.abs(theta["head"]["kernel"]).max() <= bound


def test_small_cnn_starts_with_zero_logits():
    x = jax.random.uniform(KEY, (2, 8, 8, 1))
    theta, stats = initialise(tiny("small_cnn"), KEY, x)
    assert not functional(tiny("small_cnn"))(theta, stats, x, "eval")[0].any()


def test_dropout_of_small_cnn_is_its_own_unless_told():
    def dropout(**keywords):
        return make_classifier("small_cnn", 10, **keywords).dropout

    assert (dropout(), dropout(dropout=0.0), dropout(dropout=0.1)) == (0.5, 0.0, 0.1)


def test_small_networks_have_no_statistics():
    for name in ("small_cnn", "mlp"):
        assert initialise(tiny(name), KEY, jnp.zeros((1, 8, 8, 1)))[1] == {}


def test_mlp_takes_any_activation_and_any_depth():
    x = jax.random.uniform(KEY, (2, 8, 8, 1))
    module = MLP(10, hidden=(), act=jnp.tanh)
    theta, stats = initialise(module, KEY, x)
    linear = x.reshape(2, -1) @ theta["head"]["kernel"] + theta["head"]["bias"]
    np.testing.assert_allclose(functional(module)(theta, stats, x, "eval")[0], linear, rtol=1e-5)


def test_batch_norm_over_a_device_axis_is_batch_norm_over_the_whole_batch():
    x = jax.random.uniform(KEY, (8, 8, 8, 1))
    f, (theta, stats) = functional(tiny("wrn-10-1")), initialise(tiny("wrn-10-1"), KEY, x)
    whole, whole_stats = jax.jit(lambda x: f(theta, stats, x, "update"))(x)
    run = jax.jit(jax.vmap(lambda x: f(theta, stats, x, "update"), axis_name=AXIS))
    parts, parts_stats = run(x.reshape(2, 4, 8, 8, 1))
    np.testing.assert_allclose(parts.reshape(8, 10), whole, atol=1e-3)
    for a, b in zip(jax.tree.leaves(parts_stats), jax.tree.leaves(whole_stats), strict=True):
        np.testing.assert_allclose(a, np.stack([b, b]), atol=1e-4)


@pytest.mark.parametrize("name", RESIDUAL)
def test_remat_keeps_less_for_the_backward_pass(name):
    x = jax.random.uniform(KEY, (4, 8, 8, 1))
    kept = []
    theta, stats = jax.eval_shape(lambda: initialise(tiny(name), KEY, x))
    for remat in (False, True):
        f = functional(tiny(name, remat=remat))
        back = jax.eval_shape(
            lambda theta, stats, f=f: jax.vjp(lambda t: f(t, stats, x, "batch")[0], theta)[1],
            theta,
            stats,
        )
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(back)))
        weights = sum(leaf.size for leaf in jax.tree.leaves(theta))
    assert kept[1] - weights < 0.5 * (kept[0] - weights)


def test_remat_changes_no_gradient():
    x = jax.random.uniform(KEY, (4, 8, 8, 1))
    theta, stats = initialise(tiny("wrn-10-1"), KEY, x)
    found = []
    for remat in (False, True):
        f = functional(tiny("wrn-10-1", remat=remat, dropout=0.3))

        def loss(theta, f=f):
            logits, after = f(theta, stats, x, "update", KEY)
            return (logits**2).mean(), after

        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(theta))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_batch_norm_reduces_over_the_devices_where_it_is_mapped(name):
    axes = []

    def watch(run, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            axes.append((context.module.axis_name, context.module.momentum, context.module.epsilon))
        return run(*args, **kwargs)

    with nn.intercept_methods(watch):
        parameters(tiny(name), (8, 8, 1))
        jax.vmap(lambda _: parameters(tiny(name), (8, 8, 1)), axis_name=AXIS)(jnp.zeros(2))
    once = len(axes) // 2
    assert set(axes[:once]) == {(None, 0.9, 1e-5)} and set(axes[once:]) == {(AXIS, 0.9, 1e-5)}


class Own(nn.Module):
    """A user's own net, which asks for what it wants."""

    num_classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    drop: float = 0.0

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


class OwnNnx(nnx.Module):
    """The same in flax.nnx: its weights are drawn when it is made."""

    def __init__(self, shape, num_classes, *, rngs, dropout=0.0):
        self.linear, self.dropout = nnx.Linear(math.prod(shape), num_classes, rngs=rngs), dropout

    def __call__(self, x):
        return self.linear(x.reshape(len(x), -1))


def own_function(num_classes, std, dtype):
    return MLP(num_classes, hidden=(4,), std=std, dtype=dtype)


def test_a_classifier_of_ones_own_gets_what_its_signature_names():
    given = {"mean": (0.5,), "std": (0.2,), "shape": (8, 8, 1), "rngs": nnx.Rngs(0)}
    x = jax.random.uniform(KEY, (2, 8, 8, 1))
    own = make_classifier(Own, 3, **given)
    assert own == Own(3, (8, 8, 1), (0.5,))
    assert make_classifier(own_function, 3, **given) == MLP(3, hidden=(4,), std=(0.2,))
    theirs = make_classifier(OwnNnx, 3, dropout=0.1, **given)
    assert isinstance(theirs, OwnNnx) and theirs.dropout == 0.1
    for model in (own, theirs):
        apply, theta, stats = as_apply(model, KEY, x)
        logits, after = apply(theta, stats, x, "update", KEY)
        assert logits.shape == (2, 3) and after == stats == {}
    kernels = [as_apply(own, key, x)[1]["Dense_0"]["kernel"] for key in (KEY, jax.random.key(1))]
    assert bool((kernels[0] != kernels[1]).any())


@pytest.mark.parametrize(
    "model, keywords, message",
    [
        (Own, {"shape": (8, 8, 1), "dropout": 0.1}, "Own has no dropout, got 0.1"),
        (own_function, {"width": 0.5}, "own_function has no width, got 0.5"),
        (Own, {"shape": (8, 8, 1), "dtype": jnp.bfloat16}, "Own has no dtype, got bfloat16"),
        (Own, {}, "Own asks for shape: a classifier is made with num_classes, mean"),
        (OwnNnx, {}, "OwnNnx asks for rngs, shape"),
        (lambda units: MLP(units), {}, "asks for units"),
        (lambda: "net", {}, "returns a str: a classifier is a flax.linen module or"),
        (MLP(3), {}, "model is a MLP: pass a name, a class, or a function"),
        (7, {}, "model is a int: pass a name"),
    ],
)
def test_a_classifier_of_ones_own_is_refused_by_name(model, keywords, message):
    with pytest.raises(InputError, match=message) as error:
        make_classifier(model, 3, **keywords)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_not_rounded_on_the_way(name):
    with jax.enable_x64(True):
        x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), jnp.float64)
        module = tiny(name, dtype=jnp.float64)
        state = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
        state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float64), state)
        for features in (False, True):
            run = partial(module.apply, train=False, features=features)
            assert jax.eval_shape(run, state, x).dtype == jnp.float64


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("resnet19", {}, "resnet18"),
        ("wrn-D-K", {}, "wrn-D-K"),
        ("wrn-34", {}, "wrn-D-K"),
        ("wrn-32-10", {}, "nearest 28 and 34"),
        ("wrn-4-32", {}, "nearest 10"),
        ("wrn-10-0", {}, "wrn-10-0: its width=0 must be a whole number above 0"),
        ("resnet18", {"dropout": 0.1}, "resnet18 has no dropout"),
        ("mlp", {"width": 0.0}, "width must be positive"),
    ],
)
def test_bad_names_and_arguments_get_one_clear_line(name, keywords, message):
    with pytest.raises(ValueError, match=message) as error:
        make_classifier(name, 10, **keywords)
    assert "\n" not in str(error.value)
