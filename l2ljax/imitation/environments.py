"""gymnax's control tasks behind one small interface, for policies and followers alike.

    env = make_environment("Pendulum-v1")
    s, state = env.reset(rng)
    step = env.step(rng, state, a)        # Step(s, state, reward, terminated, done, last)

Observations come divided by `scale`, fixed per task, so that networks see numbers of order one. An
action is a whole number, or a vector that the task clips to its bounds. The one surprising thing:
gymnax resets by itself, so that `s` after an episode's end is the next one's start and `last` is
where the episode went.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2ljax.errors import InputError, nearest
from l2ljax.types import Array, Tree


class Task(NamedTuple):
    """What is fixed about a task: the scale of its observations, and a usual expert's return."""

    scale: tuple[float, ...]
    expert: float
    floor: float  # about what a policy without training returns


TASKS: dict[str, Task] = {
    # The bounds of gymnax's own observation spaces, about 2 where those are infinite.
    "CartPole-v1": Task((2.4, 2.0, 0.21, 2.0), 500.0, 20.0),
    "Acrobot-v1": Task((1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi), -80.0, -500.0),
    "MountainCarContinuous-v0": Task((1.2, 0.07), 90.0, -30.0),
    "Pendulum-v1": Task((1.0, 1.0, 8.0), -200.0, -1200.0),
}


class Step(NamedTuple):
    """What follows an action; `done` is terminated or cut off after the task's longest time."""

    s: Array
    state: Tree
    reward: Array
    terminated: Array
    done: Array
    last: Array


class Environment(NamedTuple):
    """A task: s [d]; a is below `actions` if that is positive, else [k] within +-`high`."""

    name: str
    d: int
    actions: int
    high: tuple[float, ...]
    horizon: int
    task: Task
    reset: Callable[[Array], tuple[Array, Tree]]
    step: Callable[[Array, Tree, Array], Step]

    @property
    def width(self) -> int:
        """How many numbers a follower sees of an action."""
        return self.actions or len(self.high)

    def clip(self, a: Array) -> Array:
        """The action as the task takes it."""
        if self.actions:
            return a
        high = jnp.asarray(self.high)
        return jnp.clip(a, -high, high)

    def encode(self, a: Array) -> Array:
        """What a follower sees of an action: one-hot, or over its bound."""
        if self.actions:
            return jax.nn.one_hot(a, self.actions)
        return a / jnp.asarray(self.high)


def make_environment(name: str) -> Environment:
    """One of TASKS, from gymnax."""
    if name not in TASKS:
        raise InputError(nearest("environment", name, TASKS))
    try:
        import gymnax
    except ImportError as error:
        raise InputError(f"imitation needs gymnax: pip install 'l2ljax[rl]' ({error})") from None
    env, params = gymnax.make(name)
    space = env.action_space(params)
    actions = getattr(space, "n", 0)
    high = () if actions else tuple(jnp.broadcast_to(space.high, space.shape).tolist())
    task = TASKS[name]
    scale = jnp.asarray(task.scale)

    def reset(rng: Array) -> tuple[Array, Tree]:
        s, state = env.reset(rng, params)
        return s / scale, _strong(state)

    def step(rng: Array, state: Tree, a: Array) -> Step:
        s, state, reward, terminated, truncated, info = env.step(rng, state, a, params)
        reward = jnp.asarray(reward, jnp.float32)
        done = jnp.logical_or(terminated, truncated)
        last = info["final_observation"] / scale
        return Step(s / scale, _strong(state), reward, terminated, done, last)

    horizon = int(params.max_steps_in_episode)
    return Environment(name, len(task.scale), actions, high, horizon, task, reset, step)


def _strong(state: Tree) -> Tree:
    """Without weak types, which would change between a loop's turns and in a checkpoint."""

    def strengthen(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strengthen, state)
