"""The leader: the task that it acts in, its policy pi_theta(a|s), and the steps that it plays.

    env = make_environment("Pendulum-v1")
    s, state = env.reset(rng)
    policy = make_policy(env)
    a = policy.sample(rng, theta, s)
    step = env.step(rng, state, a)        # Step(s, state, reward, terminated, done, last)

Tasks come from gymnax. Observations are divided by `scale`, which is fixed per task, so that
networks see numbers of order one. gymnax resets an episode by itself: after its end, `s` is already
the start of the next one, and `last` is the state in which the episode ended.

The networks have two tanh layers of 64, as is usual for policies of this size; the policy's head
starts at a hundredth of the usual weights, so that it begins undecided. Where an action is a whole
number, the policy is categorical; else it is a Gaussian, whose spread does not depend on the state.
A Gaussian's action is unbounded, and the task clips it: PPO needs the likelihood of the action
before clipping; followers and experts see the clipped one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from l2ljax.errors import InputError, word
from l2ljax.types import Array, Tree


class Task(NamedTuple):
    """What is fixed about a task."""

    scale: tuple[float, ...]
    """What its observations are divided by."""
    expert: float
    """The usual return of an expert."""
    floor: float
    """About what a policy without training returns."""
    recipe: dict[str, Any] = {}
    """The settings of imitation that this task wants otherwise than the table of settings."""


TASKS: dict[str, Task] = {
    # The scales are the bounds of gymnax's own observation spaces, about 2 where it has none.
    "CartPole-v1": Task((2.4, 2.0, 0.21, 2.0), 500.0, 20.0),
    "Acrobot-v1": Task(
        (1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi), -80.0, -500.0, {"entropy": 0.01}
    ),
    "MountainCarContinuous-v0": Task((1.2, 0.07), 90.0, -30.0, {"entropy": 0.01, "gamma": 0.999}),
    "Pendulum-v1": Task(
        (1.0, 1.0, 8.0), -200.0, -1200.0, {"iterations": 300, "epochs": 10, "minibatches": 8}
    ),
}
"""The recipes are our own choices: the paper's section could not be obtained. With one step of the
follower a turn and a policy's rate of 3e-4, plain GAIL ended at 228 on CartPole with one trajectory
(10 seeds); with the defaults, five steps and 1e-3, at 500 (4 seeds).
"""


class Step(NamedTuple):
    """What follows an action.

    `done` says that the episode is over: it has terminated, or its time is up.
    """

    s: Array
    state: Tree
    reward: Array
    terminated: Array
    done: Array
    last: Array


class Environment(NamedTuple):
    """A task whose states are s [d].

    Its actions are 0 ... `actions` - 1, or, where `actions` is 0, vectors within +-`high`.
    """

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
        """What a follower sees of an action: one-hot, or divided by its bound."""
        if self.actions:
            return jax.nn.one_hot(a, self.actions)
        return a / jnp.asarray(self.high)


def make_environment(name: str) -> Environment:
    """The task of that name, one of TASKS."""
    word("environment", name, TASKS)
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
    """The state without weak types, which would change within a loop and in a checkpoint."""

    def strengthen(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strengthen, state)


HIDDEN = (64, 64)

Leader = Callable[[Array, Array], Array]
"""log pi_theta(a|s) of one s [d] and a, theta bound: what a follower may ask of the leader."""


class MLP(nn.Module):
    """[..., n] -> [..., outputs]; orthogonal initial weights, `head` scales the last layer's."""

    outputs: int
    head: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """tanh after every layer but the last."""
        for i, units in enumerate(HIDDEN):
            init = nn.initializers.orthogonal(2**0.5)
            x = jnp.tanh(nn.Dense(units, kernel_init=init, name=f"fc{i + 1}")(x))
        return nn.Dense(
            self.outputs, kernel_init=nn.initializers.orthogonal(self.head), name="head"
        )(x)


class PolicyNet(nn.Module):
    """s -> logits of the actions, or the mean and the logarithm of the spread of a Gaussian."""

    actions: int
    size: int

    @nn.compact
    def __call__(self, s: Array) -> tuple[Array, Array]:
        """(logits, unused) or (mean, log spread)."""
        out = MLP(self.actions or self.size, head=0.01, name="body")(s)
        spread = self.param("spread", nn.initializers.zeros_init(), (self.size,))
        return out, spread


class Policy(NamedTuple):
    """`init(rng) -> theta`, and for one state s [d] four functions of theta.

    `mode` is the most likely action.
    """

    init: Callable[[Array], Tree]
    sample: Callable[[Array, Tree, Array], Array]
    log_prob: Callable[[Tree, Array, Array], Array]
    mode: Callable[[Tree, Array], Array]
    entropy: Callable[[Tree, Array], Array]


def make_policy(env: Environment) -> Policy:
    """The policy of a task."""
    net = PolicyNet(env.actions, 0 if env.actions else len(env.high))
    high = jnp.asarray(env.high)

    def init(rng: Array) -> Tree:
        return net.init(rng, jnp.zeros(env.d))["params"]

    def outputs(theta: Tree, s: Array) -> tuple[Array, Array]:
        out, spread = net.apply({"params": theta}, s)
        out = jax.nn.log_softmax(out) if env.actions else high * out
        return out, spread  # pyright: ignore

    def sample(rng: Array, theta: Tree, s: Array) -> Array:
        out, spread = outputs(theta, s)
        if env.actions:
            return jax.random.categorical(rng, out)
        return out + high * jnp.exp(spread) * jax.random.normal(rng, out.shape)

    def log_prob(theta: Tree, s: Array, a: Array) -> Array:
        out, spread = outputs(theta, s)
        if env.actions:
            return out[a]
        z = (a - out) / (high * jnp.exp(spread))
        return jnp.sum(-0.5 * z**2 - spread - jnp.log(high) - 0.5 * math.log(2 * math.pi))

    def mode(theta: Tree, s: Array) -> Array:
        out, _ = outputs(theta, s)
        return jnp.argmax(out) if env.actions else out

    def entropy(theta: Tree, s: Array) -> Array:
        out, spread = outputs(theta, s)
        if env.actions:
            return -jnp.sum(jnp.exp(out) * out)
        return jnp.sum(spread + jnp.log(high) + 0.5 * math.log(2 * math.pi * math.e))

    return Policy(init, sample, log_prob, mode, entropy)


class Places(NamedTuple):
    """Where N copies of a task are: their states, observations, and returns so far."""

    state: Tree
    s: Array
    total: Array


class Rollout(NamedTuple):
    """T steps of N copies, every field [T, N, ...]; `total` is the return where one is done."""

    s: Array
    a: Array
    log_prob: Array
    reward: Array
    terminated: Array
    done: Array
    last: Array
    total: Array


def start_places(rng: Array, env: Environment, copies: int) -> Places:
    """N copies of a task at their start."""
    s, state = jax.vmap(env.reset)(jax.random.split(rng, copies))
    return Places(state, s, jnp.zeros(copies))


def roll_out(
    rng: Array, env: Environment, policy: Policy, theta: Tree, places: Places, steps: int
) -> tuple[Places, Rollout]:
    """T steps of pi_theta from where the copies are."""
    copies = len(places.s)

    def step(places: Places, rng: Array) -> tuple[Places, Rollout]:
        draw, move = (jax.random.split(key, copies) for key in jax.random.split(rng))
        a = jax.vmap(policy.sample, (0, None, 0))(draw, theta, places.s)
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(theta, places.s, a)
        after = jax.vmap(env.step)(move, places.state, a)
        total = places.total + after.reward
        seen = Rollout(
            places.s, a, log_prob, after.reward, after.terminated, after.done, after.last, total
        )
        return Places(after.state, after.s, jnp.where(after.done, 0.0, total)), seen

    return jax.lax.scan(step, places, jax.random.split(rng, steps))
