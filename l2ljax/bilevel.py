"""The bilevel step: theta descends, phi ascends, and delta is a function of both (equation 3).

    min_theta max_phi  (1/n) sum_i ell(f(x_i + g(A(x_i, y_i, theta); phi); theta), y_i)

The solver alone says, by `stop_gradient`, which derivatives pass through delta, so one J serves
every method. Two orders of play: `simultaneous` is the paper's Algorithm 2, one backward pass for
both players; `alternating` is the authors' code, theta first and then phi against the new theta.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.lax import pmean, stop_gradient

from l2ljax.ball import batch_rows, per_image
from l2ljax.inner_loop import repeat
from l2ljax.types import Apply, Array, Method, Mode, State, Tree


class Turn(NamedTuple):
    """Who moves, and the BatchNorm modes (craft: while u is computed; outer: over x + delta)."""

    theta: bool
    phi: bool
    craft: Mode
    train_attacker: bool
    outer: Mode


def turns(method: Method, phi_steps: int, craft_bn: Mode) -> list[Turn]:
    """The moves of one step, in order: the paper's Algorithm 2, or the loop of its code."""
    if not method.learns or method.order == "simultaneous":
        return [Turn(True, method.learns, craft_bn, train_attacker=True, outer="update")]
    descend = Turn(True, False, craft_bn, train_attacker=False, outer="update")
    ascend = Turn(False, True, "eval", train_attacker=True, outer="eval")
    return [descend] + [ascend] * phi_steps


class Player(NamedTuple):
    """What moves a player: an optax chain whose own step count drives its learning rate."""

    tx: optax.GradientTransformation

    def descend(
        self, gradient: Tree, opt: Tree, parameters: Tree, factor: Array | float = 1.0
    ) -> tuple[Tree, Tree]:
        """parameters - factor * lr * gradient, as the chain has it."""
        updates, opt = self.tx.update(gradient, opt, parameters)
        updates = jax.tree.map(lambda u: jnp.asarray(factor, u.dtype) * u, updates)
        return optax.apply_updates(parameters, updates), opt

    def ascend(self, gradient: Tree, opt: Tree, parameters: Tree) -> tuple[Tree, Tree]:
        """Up the gradient: negated before the chain, so that weight decay still decays."""
        return self.descend(jax.tree.map(jnp.negative, gradient), opt, parameters)


def init_state(
    rng: Array,
    theta: Tree,
    theta_stats: Tree,
    method: Method,
    tx_theta: optax.GradientTransformation,
    tx_phi: optax.GradientTransformation,
    x: Array,
    *,
    ema: bool = False,
) -> State:
    """The state at step 0; x is any batch of images of the right shape."""
    phi, phi_stats = method.solver.init(rng, x)
    zero = jnp.zeros((), jnp.int32)
    # A copy: theta and its average are donated to the step as separate buffers.
    average = jax.tree.map(jnp.copy, theta) if ema else {}
    opt_theta, opt_phi = tx_theta.init(theta), tx_phi.init(phi)
    return State(zero, zero + 0, theta, theta_stats, opt_theta, phi, phi_stats, opt_phi, average)


def make_step(
    f: Apply,
    method: Method,
    tx_theta: optax.GradientTransformation,
    tx_phi: optax.GradientTransformation,
    *,
    eps: float | Callable[[Array], Array | float],
    phi_steps: int = 1,
    craft_bn: Literal["batch", "update", "eval"] = "batch",
    ema_decay: float = 0.0,
    axis_name: str | None = None,
    accumulate: int = 1,
    cut: Callable[[Tree], Tree] = lambda batch: batch,
) -> Callable[[State, tuple[Array, Array], Array], tuple[State, dict[str, Array]]]:
    """One pure function (state, (x, y), rng) -> (state, metrics), compiled once by `jax.jit`.

    rng is the key of the run, the same at every step, and an argument so that all seeds share one
    compilation. eps is the radius, or a function of the step where it is warmed up.
    craft_bn="update" lets the classifier's statistics see the clean images too, as in the
    authors' code. A batch has `accumulate` parts: their gradients are averaged and the players move
    once, while BatchNorm and the attacker's batch maximum see a part at a time. `cut` lays a part
    over devices (`parallel.Layout.cut`).
    """
    solve, playing = method.solver.solve, turns(method, phi_steps, craft_bn)
    leader, follower = Player(tx_theta), Player(tx_phi)
    mean = (lambda tree: pmean(tree, axis_name)) if axis_name else (lambda tree: tree)

    def play(turn: Turn, state: State, rng: Array, keys: Array, x: Array, y: Array, eps: Array):
        dropout = jax.random.split(rng)[0]
        craft: Mode = "batch" if turn.craft == "update" else turn.craft
        players = tuple(i for i, moves in enumerate((turn.theta, turn.phi)) if moves)

        def gradients(
            i: Array | int, statistics: tuple[Tree, Tree], keys: Array, x: Array, y: Array
        ):
            theta_stats, phi_stats = statistics
            noise = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
            outer = partial(f, mode=turn.outer, rng=jax.random.fold_in(dropout, i))

            def at(theta, x, **ask):
                return f(theta, theta_stats, x, craft, **ask)[0]

            def J(theta, phi):
                ell = method.attack_loss(at, theta, x, y)
                train = turn.train_attacker
                inner = solve(keys, theta, phi, phi_stats, ell, x, y, eps=eps, train=train)
                stats = theta_stats
                if turn.craft == "update":
                    _, stats = f(stop_gradient(theta), stats, x, "update")
                loss, stats, metrics = method.train_loss(
                    noise, outer, ell, theta, stats, x, inner, y, eps=eps
                )
                return loss + inner.gain - stop_gradient(inner.gain), (stats, inner, metrics)

            moving = jax.value_and_grad(J, players, has_aux=True)
            (_, (stats, inner, metrics)), found = moving(state.theta, state.phi)
            if turn.theta:
                metrics = {**metrics, "delta/mean_abs": jnp.abs(inner.delta).mean() / eps}
            if turn.phi:
                metrics = {**metrics, "phi/loss": metrics["theta/loss"]}
                if isinstance(inner.gain, jax.Array):
                    metrics["phi/gain"] = inner.gain
            return (found, metrics), (stats, inner.phi_stats)

        statistics = state.theta_stats, state.phi_stats
        (found, metrics), statistics = _accumulate(
            gradients, statistics, (keys, x, y), accumulate, cut
        )
        moved, (theta_stats, phi_stats) = dict(zip(players, mean(found), strict=True)), statistics
        if turn.theta:
            slower = 0.5**state.rollbacks
            theta, opt = leader.descend(moved[0], state.opt_theta, state.theta, slower)
            state = state._replace(theta=theta, opt_theta=opt, theta_stats=mean(theta_stats))
            metrics["theta/grad_norm"] = optax.tree.norm(moved[0])
        if turn.phi:
            phi, opt = follower.ascend(moved[1], state.opt_phi, state.phi)
            state = state._replace(phi=phi, opt_phi=opt, phi_stats=mean(phi_stats))
            metrics["phi/grad_norm"] = optax.tree.norm(moved[1])
            if not turn.theta:
                metrics = {k: v for k, v in metrics.items() if k.startswith("phi/")}
        return state, metrics

    def step(
        state: State, batch: tuple[Array, Array], rng: Array
    ) -> tuple[State, dict[str, Array]]:
        x, y = batch
        chex.assert_rank([x, y], [4, 1])
        chex.assert_equal_shape_prefix([x, y], 1)
        key = jax.random.fold_in(jax.random.fold_in(rng, state.rollbacks), state.step)
        rows = batch_rows(len(x), axis_name, accumulate)
        radius = jnp.asarray(eps(state.step) if callable(eps) else eps, x.dtype)
        metrics: dict[str, Array] = {"theta/eps": radius}
        for i, turn in enumerate(playing):
            loss_key, image_key = jax.random.split(jax.random.fold_in(key, i))
            keys = per_image(image_key, rows)
            state, measured = play(turn, state, loss_key, keys, x, y, radius)
            metrics.update(measured)
        if ema_decay:
            ema = optax.incremental_update(state.theta, state.ema, 1 - ema_decay)
            state = state._replace(ema=ema)
        return state._replace(step=state.step + 1), mean(metrics)

    return step


def _accumulate(
    gradients: Callable, statistics: Tree, batch: Tree, parts: int, cut: Callable[[Tree], Tree]
) -> tuple[Tree, Tree]:
    """The mean over the parts of a batch; the statistics go from each part to the next."""
    if parts == 1:
        return gradients(0, statistics, *cut(batch))
    split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)

    def add(carry: tuple[Array, Tree, Tree]):
        i, total, statistics = carry
        part = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), split)
        found, statistics = gradients(i, statistics, *cut(part))
        return i + 1, jax.tree.map(lambda t, v: t + v / parts, total, found), statistics

    first = jax.tree.map(lambda a: a[0], split)
    shapes, _ = jax.eval_shape(lambda *part: gradients(0, statistics, *part), *first)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    _, total, statistics = repeat(add, (jnp.int32(0), nothing, statistics), parts)
    return total, statistics
