"""The bilevel step: theta descends, phi ascends, and delta is a function of both (equation 3).

    min_theta max_phi  (1/n) sum_i ell(f(x_i + g(A(x_i, y_i, theta); phi); theta), y_i)

The solver alone says, by `stop_gradient`, which derivatives pass through delta, so one J serves
every method. Two orders of play: `simultaneous` is the paper's Algorithm 2, one backward pass for
both players; `alternating` is the authors' code, theta first and then phi against the new theta.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from l2ljax import devices, gate
from l2ljax.apply import MODES, Functional, check_apply, pass_again
from l2ljax.ball import batch_rows, per_image
from l2ljax.devices import over_devices, repeat
from l2ljax.errors import InputError, word
from l2ljax.schedules import averaged, decay_at
from l2ljax.types import (
    Apply,
    Array,
    Batch,
    Forward,
    Method,
    Mode,
    Problem,
    State,
    Tree,
    one_key,
    stream,
)

ORDERS = ("simultaneous", "alternating")
"""The paper's Algorithm 2 | the loop of the authors' code."""


class Turn(NamedTuple):
    """Who moves, and the BatchNorm modes (craft: while u is computed; outer: over x + delta)."""

    theta: bool
    phi: bool
    craft: Mode
    train_attacker: bool
    outer: Mode


def turns(method: Method, phi_steps: int, craft_bn: Mode) -> list[Turn]:
    """The moves of one step, in order: the paper's Algorithm 2, or the loop of its code."""
    word("order", method.order, ORDERS)
    word("craft_bn", craft_bn, MODES)
    gate.check_count("phi_steps", phi_steps)
    if phi_steps > 1 and not (method.learns and method.order == "alternating"):
        raise InputError(
            f"phi_steps={phi_steps}: only order='alternating' of a method that learns takes "
            "several steps of phi"
        )
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
    """The state at step 0; x is any batch of images of the right shape.

    theta and its statistics are copied, so that a step that is compiled to donate its state leaves
    the caller's alone.
    """
    gate.check_images(x)
    gate.check_players(method, tx_theta, tx_phi)
    rng = one_key(rng)
    phi, phi_stats = method.solver.init(rng, x)
    zero = jnp.zeros((), jnp.int32)
    theta, theta_stats = jax.tree.map(jnp.copy, (theta, theta_stats))
    average = jax.tree.map(jnp.copy, (theta, theta_stats)) if ema else ({}, {})
    opt_theta, opt_phi = tx_theta.init(theta), tx_phi.init(phi)
    return State(zero, zero + 0, theta, theta_stats, opt_theta, phi, phi_stats, opt_phi, *average)


def outside(apply: Apply, mode: Mode, rng: Array) -> Forward:
    """apply in a mode, with a dropout key for each of its passes: over x + delta."""

    def forward(theta: Tree, stats: Tree, x: Array, draw: Array | int = 0, **ask: Any):
        key = jax.random.fold_in(rng, draw)
        # A `Functional` knows by itself which of its draws differ between devices.
        key = key if isinstance(apply, Functional) else devices.own_key(key)
        logits, stats = apply(theta, stats, x, mode, key, **ask)
        if not ask:
            gate.check_logits(logits, len(x))
        return logits, stats

    return forward


def inside(apply: Apply, mode: Mode, rng: Array, theta_stats: Tree) -> Forward:
    """apply as the inner problem sees it: while delta is made.

    `update` hands the statistics from pass to pass. `batch` and `eval` keep none, and every pass
    in `eval` sees those of the step's beginning.
    """
    return evaluating(apply, theta_stats) if mode == "eval" else outside(apply, mode, rng)


def evaluating(apply: Apply, theta_stats: Tree) -> Forward:
    """apply in eval mode, always with these statistics."""

    def forward(theta: Tree, stats: Tree, x: Array, draw: Array | int = 0, **ask: Any):
        return apply(theta, theta_stats, x, "eval", **ask)[0], stats

    return forward


def make_step(
    apply: Apply,
    method: Method,
    tx_theta: optax.GradientTransformation,
    tx_phi: optax.GradientTransformation,
    *,
    eps: float | Callable[[Array], Array | float],
    phi_steps: int = 1,
    craft_bn: Literal["batch", "update", "eval"] = "batch",
    ema_decay: float = 0.0,
    accumulate: int = 1,
    shard_batch: Callable[[Tree], Tree] = lambda batch: batch,
) -> Callable[[State, Batch | tuple[Array, Array], Array], tuple[State, dict[str, Array]]]:
    """One pure function (state, (x, y), rng) -> (state, metrics), compiled once by `jax.jit`.

    rng is the key of the run, the same at every step, and an argument so that all seeds share one
    compilation. eps is the radius, or a function of the step where it is warmed up. Where pmap maps
    the step over devices, it averages gradients, statistics and metrics over them.
    craft_bn="update" keeps the classifier's statistics of every pass that made delta, in order, as
    the authors' codes do; "batch" uses the batch's own and discards them, "eval" the running ones.
    ema_decay is the decay per step of the moving averages of theta and of its statistics; it is
    warmed up (`decay_at`). A batch has `accumulate` parts: their gradients are averaged and the
    players move once, while BatchNorm and the attacker's batch maximum see a part at a time.
    `shard_batch` lays a part over devices (`parallel.Layout.shard_batch`).
    """
    gate.check_players(method, tx_theta, tx_phi)
    check_apply(apply)
    solve, playing = method.solver.solve, turns(method, phi_steps, craft_bn)
    if not callable(eps):
        gate.check_eps(eps)
    gate.check_count("accumulate", accumulate)
    if isinstance(ema_decay, str) or not 0 <= ema_decay < 1:
        raise InputError(f"ema_decay={ema_decay} must lie in [0, 1)")
    leader, follower = Player(tx_theta), Player(tx_phi)

    def play(turn: Turn, state: State, rng: Array, rows: Array, x: Array, y: Array, eps: Array):
        keys = per_image(stream(rng, "images"), rows)
        players = tuple(i for i, moves in enumerate((turn.theta, turn.phi)) if moves)

        def gradients(
            i: Array | int, statistics: tuple[Tree, Tree], keys: Array, x: Array, y: Array
        ):
            theta_stats, phi_stats = statistics
            part = jax.random.fold_in(rng, i)
            looking = inside(apply, turn.craft, stream(part, "crafting"), theta_stats)
            outer = outside(apply, turn.outer, stream(part, "training"))

            def J(theta, phi):
                ell = method.attack_loss(looking, theta, theta_stats, x, y)
                problem = Problem(ell, x, y, eps, keys, turn.train_attacker)
                inner = solve(problem, theta, phi, phi_stats)
                stats = theta_stats if inner.theta_stats is None else inner.theta_stats
                before = stats
                training = problem._replace(keys=stream(keys, "training"))
                loss, stats, metrics = method.train_loss(outer, training, theta, before, inner)
                if turn.craft == "update" and method.solver.looks_at_delta:
                    at = x + inner.delta
                    stats = pass_again(outer, theta, at, before, after=stats, later=stats)
                metrics = {"theta/loss": loss, **metrics}
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
            gradients, statistics, (keys, x, y), accumulate, shard_batch
        )
        theta_stats, phi_stats = over_devices(statistics)
        moved = dict(zip(players, over_devices(found), strict=True))
        if turn.theta:
            slower = 0.5**state.rollbacks
            theta, opt = leader.descend(moved[0], state.opt_theta, state.theta, slower)
            state = state._replace(theta=theta, opt_theta=opt, theta_stats=theta_stats)
            metrics["theta/grad_norm"] = optax.tree.norm(moved[0])
        if turn.phi:
            phi, opt = follower.ascend(moved[1], state.opt_phi, state.phi)
            state = state._replace(phi=phi, opt_phi=opt, phi_stats=phi_stats)
            metrics["phi/grad_norm"] = optax.tree.norm(moved[1])
            if not turn.theta:
                metrics = {k: v for k, v in metrics.items() if k.startswith("phi/")}
        return state, metrics

    def step(state: State, batch: Batch | tuple[Array, Array], rng: Array):
        x, y = gate.check_batch(batch)
        gate.check_state(state, tx_theta, tx_phi, bool(ema_decay))
        if devices.is_mapped():
            _check_statistics(apply, state.theta, state.theta_stats, x)
        if len(x) % accumulate:
            raise InputError(f"accumulate={accumulate} does not divide a batch of {len(x)} images")
        rng = one_key(rng)
        key = jax.random.fold_in(jax.random.fold_in(rng, state.rollbacks), state.step)
        rows = batch_rows(len(x), accumulate)
        radius = jnp.asarray(eps(state.step) if callable(eps) else eps, x.dtype)
        metrics: dict[str, Array] = {"theta/eps": radius}
        for i, turn in enumerate(playing):
            turn_key = jax.random.fold_in(stream(key, "turn"), i)
            state, measured = play(turn, state, turn_key, rows, x, y, radius)
            metrics.update(measured)
        if ema_decay:
            decay = decay_at(state.step, ema_decay)
            state = state._replace(
                ema=averaged(state.ema, state.theta, decay),
                ema_stats=averaged(state.ema_stats, state.theta_stats, decay),
            )
        return state._replace(step=state.step + 1), over_devices(metrics)

    return step


def _check_statistics(apply: Apply, theta: Tree, stats: Tree, x: Array) -> None:
    """An InputError if statistics would differ between the devices that pmap splits x over."""

    def update(model: tuple[Tree, Tree], x: Array) -> Tree:
        return apply(*model, x, "update", jax.random.key(0))[1]

    if jax.tree.leaves(stats) and not devices.equal_on_all(update, (theta, stats), x):
        name = type(apply.module).__name__ if isinstance(apply, Functional) else "the model"
        raise InputError(
            f"{name} under pmap: its statistics would be those of each device's own images; take "
            "--parallel=sharding, which is right for every model"
        )


def _accumulate(
    gradients: Callable, statistics: Tree, batch: Tree, parts: int, shard: Callable[[Tree], Tree]
) -> tuple[Tree, Tree]:
    """The mean over the parts of a batch; the statistics go from each part to the next."""
    if parts == 1:
        return gradients(0, statistics, *shard(batch))
    split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)

    def add(carry: tuple[Array, Tree, Tree]):
        i, total, statistics = carry
        part = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), split)
        found, statistics = gradients(i, statistics, *shard(part))
        return i + 1, jax.tree.map(lambda t, v: t + v / parts, total, found), statistics

    first = jax.tree.map(lambda a: a[0], split)
    shapes, _ = jax.eval_shape(lambda *part: gradients(0, statistics, *part), *first)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    _, total, statistics = repeat(add, (jnp.int32(0), nothing, statistics), parts)
    return total, statistics
