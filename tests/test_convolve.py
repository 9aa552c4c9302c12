import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from l2ljax.models.convolve import convolve

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
    ("size", "kernel", "stride", "channels", "backend", "native"),
    [
        (4, 3, 1, 4, "cpu", True),
        (16, 3, 2, 4, "cpu", True),
        (2, 3, 1, 4, "cpu", False),
        (8, 3, 2, 4, "cpu", False),
        (16, 3, 1, 3, "cpu", False),
        (16, 1, 1, 4, "cpu", False),
        (16, 1, 2, 4, "cpu", False),
        (2, 3, 1, 4, "gpu", True),
        (16, 3, 1, 3, "gpu", True),
        (16, 1, 2, 4, "tpu", True),
    ],
)
def test_small_maps_images_and_single_pixels_avoid_the_convolution_on_the_cpu(
    size, kernel, stride, channels, backend, native, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    pad = (kernel // 2, kernel // 2)

    def run(x, w):
        return convolve(x, w, (stride, stride), (pad, pad), dimension_numbers=DIMENSIONS)

    x, w = jnp.zeros((1, size, size, channels)), jnp.zeros((kernel, kernel, channels, 2))
    assert ("conv_general_dilated" in str(jax.make_jaxpr(run)(x, w))) == native
