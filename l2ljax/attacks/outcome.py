"""Image by image: which are fooled, which class comes next, and one thing or the other for each."""

import jax
import jax.numpy as jnp

from l2ljax.errors import InputError
from l2ljax.gate import check_count
from l2ljax.types import Array, Tree


def fooled(logits: Array, y: Array) -> Array:
    """argmax f != y. NaN is no class: to the search such an image still stands."""
    return (logits.argmax(-1) != y) & ~jnp.isnan(logits).any(-1)


def class_of_rank(logits: Array, rank: Array | int) -> Array:
    """The class with the rank-th largest logit; 1 is the top. A tie goes to the lower class."""
    return jax.lax.top_k(logits, logits.shape[-1])[1][:, rank - 1]


def check_rank(rank: int, classes: int) -> None:
    """An InputError unless there is a class of that rank besides the top one."""
    check_count("rank", rank)
    if not 2 <= rank <= classes:
        raise InputError(f"rank {rank}: the target ranks of {classes} classes are 2..{classes}")


def choose(which: Array, a: Tree, b: Tree) -> Tree:
    """a for the images where `which` holds, b for the others."""

    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, a, b)
