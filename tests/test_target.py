"""A program is made for the kind of processor it is compiled for, wherever it is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from games import EPS, images, method_of, small_net
from l2ljax import devices
from l2ljax.bilevel import init_state, make_step
from l2ljax.devices import repeat
from l2ljax.errors import InputError
from l2ljax.models.layers import convolve

KEY = jax.random.key(0)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_pads_symmetrically_and_agrees_with_lax(size, stride, kernel):
    x = jax.random.normal(KEY, (2, size, size + 1, 3))
    w = jax.random.normal(KEY, (kernel, kernel, 3, 4))
    pad = kernel // 2
    options = {"dimension_numbers": DIMENSIONS}

    def ours(x, w):
        return convolve(x, w, (stride, stride), ((pad, pad), (pad, pad)), **options)

    def theirs(x, w):
        return lax.conv_general_dilated(x, w, (stride, stride), [(pad, pad)] * 2, **options)

    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = ours(x, w)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            view = padded[:, stride * i : stride * i + kernel, stride * j : stride * j + kernel]
            np.testing.assert_allclose(out[:, i, j], np.einsum("bklc,klcd->bd", view, w), atol=1e-4)
    assert out.shape == theirs(x, w).shape
    gradients = [jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), (0, 1))(x, w) for f in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "channels", "platform", "native"),
    [
        (4, 3, 1, 4, "cpu", True),
        (16, 3, 2, 4, "cpu", True),
        (2, 3, 1, 4, "cpu", False),
        (8, 3, 2, 4, "cpu", False),
        (16, 3, 1, 3, "cpu", False),
        (16, 1, 1, 4, "cpu", False),
        (16, 1, 2, 4, "cpu", False),
        (2, 3, 1, 4, "gpu", True),
        (16, 3, 1, 3, "cuda", True),
        (16, 1, 2, 4, "tpu", True),
    ],
)
def test_small_maps_images_and_single_pixels_avoid_the_convolution_on_the_cpu(
    size, kernel, stride, channels, platform, native
):
    pad = (kernel // 2, kernel // 2)

    def run(x, w):
        return convolve(x, w, (stride, stride), (pad, pad), dimension_numbers=DIMENSIONS)

    x, w = jnp.zeros((1, size, size, channels)), jnp.zeros((kernel, kernel, channels, 2))
    with devices.compiling_for(platform):
        assert ("conv_general_dilated" in str(jax.make_jaxpr(run)(x, w))) == native


@pytest.mark.parametrize("times", [0, 1, 2, 5])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_body_is_applied_so_many_times(times, platform):
    with devices.compiling_for(platform):
        assert float(repeat(lambda c: 3 * c + 1, 1.0, times)) == 1.5 * 3.0**times - 0.5


@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_on_the_cpu_nothing_is_left_of_the_loop_before_xla_sees_it(times):
    """XLA removes a loop of one step from the program, but only after it has slowed its body."""
    program = jax.jit(lambda c: repeat(lambda c: 3 * c + 1, c, times)).lower(1.0)
    assert "while" not in program.as_text()


def test_one_step_is_traced_for_either_target_whatever_was_traced_before():
    """For a GPU the loop stays and all convolutions are lax's; for a CPU it is unrolled."""
    f, theta, stats = small_net()
    x, y = images()
    sgd, method = optax.sgd(0.1), method_of("pgm", inner_steps=5)
    state = init_state(KEY, theta, stats, method, sgd, sgd, x)
    step = jax.jit(make_step(f, method, sgd, sgd, eps=EPS))
    programs = []
    for platform in ("cpu", "gpu", "cpu"):
        with devices.compiling_for(platform):
            traced = step.trace(state, (x, y), KEY)
            programs.append((str(traced.jaxpr), "while" in traced.lower().as_text()))
    (cpu, cpu_loops), (gpu, gpu_loops), again = programs
    assert (cpu, cpu_loops) == again
    assert gpu_loops and "unroll=1" in gpu and not cpu_loops and "unroll=5" in cpu
    assert gpu.count("conv_general_dilated[") > 2 * cpu.count("conv_general_dilated[")


def test_the_target_is_this_machines_unless_another_is_named():
    assert devices.platform() == jax.default_backend() == "cpu"
    with devices.compiling_for("rocm"):
        assert devices.platform() == "gpu" and not devices.is_cpu()
        with devices.compiling_for("tpu"):
            assert devices.platform() == "tpu"
    assert devices.is_cpu()
    with pytest.raises(InputError, match="unknown platform 'gpv': did you mean 'gpu'"):
        with devices.compiling_for("gpv"):
            pass
