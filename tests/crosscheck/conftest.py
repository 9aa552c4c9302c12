"""A small net trained on digits, once for all files, and its torch counterparts.

Needs the extra `crosscheck`; without it only what needs no torch is collected; test_gates says so.
"""

import importlib.util
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2ljax.apply import functional, initialise
from l2ljax.data import load
from l2ljax.evaluation.accuracy import freeze
from l2ljax.losses import cross_entropy
from l2ljax.models import make_classifier

if not all(map(importlib.util.find_spec, ("torch", "pyautoattack", "foolbox"))):
    collect_ignore_glob = ["test_[!gs]*.py"]  # all but test_gates and test_scripts


class Side:
    """A classifier f with its images, its torch twin and its bridge."""

    def __init__(self, net, theta, stats, x, y):
        import torch

        from official.bridge import Bridge
        from official.twin import twin

        # One thread: beside JAX's own torch gets many times slower with more.
        torch.set_num_threads(1)
        self.theta, self.stats = jax.device_get((theta, stats))
        self.mean, self.std = net.mean, net.std
        self.f = freeze(functional(net))(theta, stats)
        self.x, self.y = np.asarray(x), np.asarray(y)
        self.models = {
            "twin": twin(self.theta, self.stats, mean=net.mean, std=net.std),
            "bridge": Bridge(self.f),
        }


def trained(steps=80, batch=128):
    data = load("digits", data_dir=None)
    net = make_classifier("wrn-10-1", 10, mean=data.mean, std=data.std, width=0.25)
    f = functional(net)
    x, y = jnp.asarray(data.x_train, jnp.float32) / 255, jnp.asarray(data.y_train)
    theta, stats = initialise(net, jax.random.key(0), x[:batch])
    tx = optax.adam(3e-3)

    @jax.jit
    def step(theta, stats, opt, rows):
        def loss(theta):
            logits, kept = f(theta, stats, x[rows], "update")
            return cross_entropy(logits, y[rows]).mean(), kept

        d_theta, kept = jax.grad(loss, has_aux=True)(theta)
        updates, opt = tx.update(d_theta, opt)
        return optax.apply_updates(theta, updates), kept, opt

    opt = tx.init(theta)
    for rows in np.random.default_rng(0).integers(0, len(x), (steps, batch)):
        theta, stats, opt = step(theta, stats, opt, rows)
    return net, theta, stats, np.float32(data.x_test) / 255, data.y_test


def random_rgb():
    """32 x 32 x 3, statistics and weights all away from their first values."""
    net = make_classifier("wrn-10-1", 10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), width=0.5)
    x = jax.random.uniform(jax.random.key(0), (256, 32, 32, 3))
    theta, stats = initialise(net, jax.random.key(1), x[:2])

    def shaken(path, leaf):
        key = jax.random.fold_in(jax.random.key(2), zlib.crc32(jax.tree_util.keystr(path).encode()))
        factor = jax.random.uniform(key, leaf.shape, minval=0.5, maxval=1.5)
        return leaf * factor + 0.1 * (leaf.ndim == 1) * (factor - 0.5)

    theta, stats = (jax.tree_util.tree_map_with_path(shaken, tree) for tree in (theta, stats))
    return net, theta, stats, x, np.arange(256) % 10


@pytest.fixture(scope="session")
def digits():
    return Side(*trained())


@pytest.fixture(scope="session")
def rgb():
    return Side(*random_rgb())
