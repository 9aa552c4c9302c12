"""PGD beside foolbox's, which takes JAX models as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.attacks import pgd


def net(x):
    a, b = jax.random.split(jax.random.key(0))
    h = jnp.tanh((x.reshape(len(x), -1) - 0.5) @ jax.random.normal(a, (64, 64)) / 8)
    return h @ jax.random.normal(b, (64, 10))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "norm, attack, eps",
    [
        ("linf", "LinfProjectedGradientDescentAttack", 0.03),
        ("l2", "L2ProjectedGradientDescentAttack", 0.3),
    ],
)
def test_pgd_from_zero_gives_the_images_that_foolbox_gives(norm, attack, eps):
    foolbox = pytest.importorskip("foolbox", reason="needs the extra crosscheck")
    x = jax.random.uniform(jax.random.key(1), (32, 8, 8, 1))
    y = net(x).argmax(-1)
    theirs = getattr(foolbox.attacks, attack)(abs_stepsize=eps / 4, steps=10, random_start=False)
    _, images, fooled = theirs(foolbox.models.JAXModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    settings = {"eps": eps, "steps": 10, "step_size": eps / 4, "start": "zero", "loss": "ce"}
    ours = pgd(jax.random.key(2), net, x, y, norm=norm, **settings)
    np.testing.assert_allclose(ours, np.asarray(images), atol=2e-6)
    np.testing.assert_array_equal(net(ours).argmax(-1) != y, np.asarray(fooled))
    assert 0 < np.asarray(fooled).sum() < len(x)
