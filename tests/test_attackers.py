import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.apply import functional, initialise
from l2ljax.models import ATTACKERS, label, make_attacker
from l2ljax.models.attackers import GeneratorBlock

KEY = jax.random.key(0)
SHAPES = [(8, 8, 1), (32, 32, 3), (7, 9, 2), (1, 1, 1)]


def variables(module, shape, key=KEY):
    return jax.eval_shape(lambda x: module.init(key, x, train=False), jnp.zeros((2, *shape)))


def parameters(module, shape):
    return sum(leaf.size for leaf in jax.tree.leaves(variables(module, shape)["params"]))


def images(channels, size=8):
    return jax.random.uniform(jax.random.key(1), (4, size, size, channels))


def apply(module):
    return jax.jit(functional(module), static_argnames="mode")


@pytest.mark.parametrize(
    ("name", "c_in", "count"),
    [
        ("slim", 6, 1_434_359),
        ("slim", 3, 1_430_822),
        ("wide", 6, 1_747_851),
        ("wide", 3, 1_746_123),
    ],
)
def test_parameter_counts_are_the_papers(name, c_in, count):
    assert parameters(make_attacker(name, 3), (32, 32, c_in)) == count


def test_two_layer_count_from_its_layers():
    def block(a, b):  # two 3x3 convolutions, the 1x1 shortcut, two PReLU slopes
        return 9 * a * b + b + 9 * b * b + b + a * b + b + 2

    count = 9 * 6 * 64 + 2 * 64 + block(64, 128) + block(128, 64) + 9 * 64 * 3 + 3
    assert parameters(make_attacker("two_layer", 3), (32, 32, 6)) == count


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("act", ["prelu", "relu"])
def test_output_has_the_images_size_and_channels(name, shape, act):
    module = make_attacker(name, shape[-1], width=1 / 16, act=act)
    for c_in in (shape[-1], 2 * shape[-1]):
        a = jnp.zeros((2, *shape[:2], c_in))
        out, _ = jax.eval_shape(
            lambda a, module=module: module.init_with_output(KEY, a, train=True), a
        )
        assert (out.shape, out.dtype) == ((2, *shape), jnp.float32)


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_stays_in_the_unit_box_and_uses_it(name, dtype):
    module = make_attacker(name, 1, width=1 / 16, dtype=dtype)
    phi, stats = initialise(module, KEY, images(2))
    out, _ = apply(module)(phi, stats, 100 * images(2), "eval")
    assert out.dtype == jnp.float32
    assert 0.5 < jnp.abs(out).max() <= 1


@pytest.mark.parametrize("name", ATTACKERS)
def test_width_scales_every_hidden_channel_and_is_labelled(name):
    full, eighth = (
        variables(make_attacker(name, 3, width=width), (16, 16, 6))["params"]
        for width in (1, 1 / 8)
    )
    flat = zip(jax.tree.leaves_with_path(full), jax.tree.leaves(eighth), strict=True)
    for (path, a), b in flat:
        if a.ndim and "conv_out" not in jax.tree_util.keystr(path):
            assert b.shape[-1] == a.shape[-1] // 8, path
    assert (
        variables(make_attacker(name, 3, width=1e-6), (8, 8, 6))["params"]["conv"]["kernel"].shape[
            -1
        ]
        == 1
    )
    assert label(name, 1.0) == name
    assert label(name, 1 / 8) == f"{name} (width 1/8)"


def test_train_mode_updates_every_statistic_and_eval_none():
    module = make_attacker("slim", 1, width=1 / 16)
    phi, stats = initialise(module, KEY, images(2))
    g = apply(module)
    _, updated = g(phi, stats, images(2), "update")
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), stats, updated)))
    assert functional(module)(phi, stats, images(2), "eval")[1] is stats


@pytest.mark.parametrize("name", ATTACKERS)
def test_phi_gradient_reaches_every_layer(name):
    module = make_attacker(name, 1, width=1 / 16)
    phi, stats = initialise(module, KEY, images(2))
    g = apply(module)

    @jax.jit
    @jax.grad
    def gradient(phi):
        return (g(phi, stats, images(2), "update")[0] ** 2).sum()

    for path, leaf in jax.tree.leaves_with_path(gradient(phi)):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(leaf).all()
        # A bias before BatchNorm has no effect: conv1's inside a block, and all that is added up
        # before bn_blocks.
        if not (name.endswith("['bias']") and "['block" in name):
            assert jnp.abs(leaf).max() > 0, name


def test_slim_skip_hands_the_input_to_the_last_convolution():
    module = make_attacker("slim", 1, width=1 / 16)
    a = images(2)
    phi, stats = initialise(module, KEY, a)
    phi["bn_deconv"] = jax.tree.map(jnp.zeros_like, phi["bn_deconv"])
    out = apply(module)(phi, stats, a, "eval")[0]
    kernel = phi["conv_out"]["kernel"]
    expected = nn.Conv(1, (3, 3), padding=1, use_bias=False).apply(
        {"params": {"kernel": kernel[:, :, -2:]}}, a
    )
    np.testing.assert_allclose(out, np.tanh(5 * expected), atol=1e-5)


@pytest.mark.parametrize("name", ["wide", "two_layer"])
def test_wide_ends_in_batch_norm_then_a_convolution_with_bias(name):
    module = make_attacker(name, 1, width=1 / 16)
    phi, stats = initialise(module, KEY, images(2))
    phi["conv_out"]["kernel"] = jnp.zeros_like(phi["conv_out"]["kernel"])
    out = apply(module)(phi, stats, images(2), "eval")[0]
    np.testing.assert_allclose(out, np.full_like(out, np.tanh(phi["conv_out"]["bias"])), atol=1e-6)


def test_slim_transposed_convolution_is_the_scatter_of_its_definition():
    """Pixel (i, j) adds its 4x4 stamp from (2 i - 1, 2 j - 1) on; odd sizes lose the last line."""
    seen = {}

    def watch(run, args, kwargs, context):
        out = run(*args, **kwargs)
        if context.module.name in ("deconv", "bn_blocks") and context.method_name == "__call__":
            seen[context.module.name] = out
        if context.module.name == "bn_deconv":
            seen["cropped"] = args[0]
        return out

    module = make_attacker("slim", 1, width=1 / 16)
    a = jax.random.uniform(KEY, (2, 5, 7, 2))
    phi, stats = initialise(module, KEY, a)
    state = {"params": phi, **stats}

    @jax.jit
    def watched(a):
        with nn.intercept_methods(watch):
            module.apply(state, a, train=False)
        return dict(seen)

    seen = watched(a)
    # Flax's kernel meets the input as in an ordinary convolution, so the stamp is its mirror image.
    stamp = np.asarray(state["params"]["deconv"]["kernel"])[::-1, ::-1]
    h = np.asarray(seen["bn_blocks"])
    full = np.zeros((2, 2 * h.shape[1] + 2, 2 * h.shape[2] + 2, stamp.shape[-1]))
    for i in range(h.shape[1]):
        for j in range(h.shape[2]):
            full[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "bc,klcd->bkld", h[:, i, j], stamp
            )
    np.testing.assert_allclose(seen["deconv"], full[:, 1:-1, 1:-1], atol=1e-5)
    np.testing.assert_array_equal(seen["cropped"], seen["deconv"][:, :5, :7])


def norms(module, a):
    """Every BatchNorm of a network: path -> (eps, momentum, affine)."""
    found = {}

    def watch(run, args, kwargs, context):
        bn = context.module
        if isinstance(bn, nn.BatchNorm):
            found["/".join(bn.path)] = (bn.epsilon, bn.momentum, bn.use_scale and bn.use_bias)
        return run(*args, **kwargs)

    with nn.intercept_methods(watch):
        variables(module, a)
    return found


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("act", ["prelu", "relu"])
def test_batch_norm_settings_are_the_published_ones(name, act):
    for path, setting in norms(make_attacker(name, 1, width=1 / 16, act=act), (8, 8, 2)).items():
        if path in ("bn", "bn_deconv"):
            assert setting == (1e-3, 0.9, True)
        elif path == "bn_blocks":
            assert setting == (1e-5, 0.9, False)
        else:
            assert path.startswith("block")
            assert setting == (1e-5, 0.9, act == "relu")


def fills(array, bound):
    """|array| <= bound, and uniform draws of this many come near it."""
    top = float(np.abs(array).max())
    return bound * (1 - 8 / array.size) < top <= bound * (1 + 1e-6)


def test_initial_values_are_pytorchs_and_the_blocks_xavier():
    phi, _ = initialise(make_attacker("slim", 1, width=1 / 4), KEY, images(2))
    a, b = 32, 64
    assert fills(phi["conv"]["kernel"], 1 / np.sqrt(9 * 2))
    assert fills(phi["conv_out"]["kernel"], 1 / np.sqrt(9 * (4 + 2)))
    assert fills(phi["deconv"]["kernel"], 1 / np.sqrt(16 * 4))
    block = phi["block1"]
    assert fills(block["conv1"]["kernel"], np.sqrt(12 / (9 * a + 9 * b)))
    assert fills(block["conv2"]["kernel"], np.sqrt(12 / (9 * b + 9 * b)))
    assert fills(block["shortcut"]["kernel"], np.sqrt(6 / (a + b)))
    assert fills(block["conv1"]["bias"], 1 / np.sqrt(9 * a))
    assert fills(block["conv2"]["bias"], 1 / np.sqrt(9 * b))
    assert fills(block["shortcut"]["bias"], 1 / np.sqrt(a))
    assert block["act1"]["negative_slope"] == block["act2"]["negative_slope"] == 0.25
    assert phi["scale"] == 5
    for leaf in (block["act1"]["negative_slope"], phi["scale"]):
        assert leaf.shape == ()


def test_wide_output_bias_has_pytorchs_range():
    phi, _ = initialise(make_attacker("two_layer", 64, width=1 / 4), KEY, images(64))
    assert fills(phi["conv_out"]["bias"], 1 / np.sqrt(9 * 16))


def test_generator_block_adds_without_activation_and_keeps_the_identity():
    x = jax.random.normal(KEY, (2, 4, 4, 3))
    block = GeneratorBlock(3, "prelu", jnp.float32)
    phi, stats = initialise(block, KEY, x)
    assert "shortcut" not in phi
    phi["conv2"] = jax.tree.map(jnp.zeros_like, phi["conv2"])
    np.testing.assert_array_equal(functional(block)(phi, stats, x, "eval")[0], x)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "slin"}, "slim"),
        ({"name": "slim", "act": "gelu"}, "prelu"),
        ({"name": "slim", "width": 0}, "width must be positive"),
    ],
)
def test_bad_arguments_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        make_attacker(channels=1, **keywords)
