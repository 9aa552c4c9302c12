"""Models as users write them, one training step of each, on one device and on several.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python own_models.py OUT

Writes OUT.json. For every kind of model: the largest difference between the states after one step
on one device and after the same step with the batch sharded; the largest move of that step; and the
same difference under pmap, or the line with which pmap refuses the model.
"""

import json
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from l2ljax.apply import functional, functional_nnx, initialise
from l2ljax.bilevel import init_state, make_step
from l2ljax.errors import InputError
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.parallel import Layout
from l2ljax.solvers import pgm
from l2ljax.types import Method


def body(module, x, train):
    """Dense, BatchNorm, dropout and noise of a stream of its own, dense."""
    h = nn.Dense(16)(x.reshape(len(x), -1))
    h = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(h))
    h = nn.Dropout(0.5, deterministic=not train)(h)
    if train:
        h = h + 0.1 * jax.random.normal(module.make_rng("noise"), h.shape)
    return nn.Dense(10)(h)


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return body(self, x, train)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, *, training=False):
        return body(self, x, training)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return body(self, x, not deterministic)


class UseRunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average):
        return body(self, x, not use_running_average)


class Field(nn.Module):
    """The switch is a field, as in much Flax code that builds one module to train and one not."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        return body(self, x, self.train)


class NoSwitch(nn.Module):
    """Nothing in it needs one."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(16)(x.reshape(len(x), -1))))


class Nnx(nnx.Module):
    """A flax.nnx model with BatchNorm and dropout."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(64, 16, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)
        self.bn = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.bn(self.first(x.reshape(len(x), -1))))))


LINEN = {
    "train": Train(),
    "training": Training(),
    "deterministic": Deterministic(),
    "use_running_average": UseRunningAverage(),
    "a field": Field(),
    "no switch": NoSwitch(),
}
KINDS = (*LINEN, "nnx")


def images(n=16):
    return jax.random.uniform(jax.random.key(5), (n, 8, 8, 1)), jnp.arange(n) % 10


def build(kind):
    """f, theta, stats."""
    if kind == "nnx":
        return functional_nnx(Nnx(nnx.Rngs(0)))
    module = LINEN[kind]
    return functional(module), *initialise(module, jax.random.key(1), images()[0])


def play(kind, layout, craft_bn="batch", seed=2):
    """The states before and after one step against PGM."""
    f, theta, stats = build(kind)
    (x, y), sgd = images(), optax.sgd(0.1, 0.9)
    method = Method(
        pgm(2, 0.05, "uniform"), ATTACK_LOSSES["ce"], adversarial(0.0), False, "simultaneous"
    )
    state = init_state(jax.random.key(0), theta, stats, method, sgd, sgd, x)
    shard = layout.shard_batch
    step = make_step(f, method, sgd, sgd, eps=0.1, craft_bn=craft_bn, shard_batch=shard)
    before = jax.device_get(state)  # the step takes the state's buffers
    devices = layout.device_count
    cut = (x, y) if layout.kind != "pmap" else (split(x, devices), split(y, devices))
    arguments = (
        layout.replicate(state),
        layout.put_batch(cut),
        layout.replicate(jax.random.key(seed)),
    )
    after, _ = layout.compile(step, *arguments)(*arguments)
    return before, layout.unreplicate(after)


def split(rows, devices):
    """What each device takes of a batch."""
    return rows.reshape(devices, -1, *rows.shape[1:])


def largest(a, b):
    """The largest difference of parameters and statistics."""
    pairs = zip(*(jax.tree.leaves((s.theta, s.theta_stats)) for s in (a, b)), strict=True)
    return max(float(jnp.abs(u - v).max()) for u, v in pairs)


def main(out: str) -> None:
    assert jax.device_count() > 1
    found = {}
    for kind in KINDS:
        before, one = play(kind, Layout("none"))
        _, many = play(kind, Layout("sharding"))
        apart, moved = largest(one, jax.device_get(many)), largest(before, one)
        try:
            under_pmap = largest(one, jax.device_get(play(kind, Layout("pmap"))[1]))
        except InputError as error:
            under_pmap = str(error)
        found[kind] = apart, moved, under_pmap
    pathlib.Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
