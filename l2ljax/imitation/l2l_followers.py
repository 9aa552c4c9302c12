"""The followers of learning to learn, our own design, and the table of all followers.

`l2l_gail` sees the leader as the gradient attacker sees the classifier. `l2l_gail_opt` takes the
paper's words literally: a learned optimiser moves the parameters of D.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from l2ljax.imitation.followers import (
    REWARDS,
    Follower,
    FollowerSettings,
    Pairs,
    airl_like,
    blind,
    constant_reward,
    discriminator,
    environment,
    gail,
    gail_gp,
    log_prob,
    objective,
    pair_input,
    pair_size,
)
from l2ljax.imitation.leader import MLP, Environment, Leader
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers.recurrent import sign_log
from l2ljax.types import Array, Tree


def l2l_gail(env: Environment, settings: FollowerSettings) -> Follower:
    """h = g([s, a, A(s, a, theta)]; phi), A = log pi_theta(a|s) with the current theta.

    A is seen of the expert's pairs too. With `state_gradient` D also sees the gradient of A by the
    state, as the attacker sees u in section 1.4.2. Both are detached: the leader is not paid for
    changing what the follower sees. D could tell policy from expert by the likelihood alone.
    """
    if settings.state_gradient:
        return _with_state_gradient(env, settings)

    def see(leader: Leader, pairs: Pairs) -> Array:
        return log_prob(leader, pairs)[:, None]

    return discriminator(env, settings, extra=1, see=see)


def _with_state_gradient(env: Environment, settings: FollowerSettings) -> Follower:
    """phi is {"D": the network's parameters, "largest": what the gradient is divided by}.

    That is one number a turn: the gradient's largest entry over both sides' pairs, those that D
    learns from. phi keeps it, because the rewards of the turn are divided by it too. With a maximum
    for each side, D could read from the scale which side it looks at.
    """

    def divided_by(largest: Array) -> Follower:
        def see(leader: Leader, pairs: Pairs) -> Array:
            u = state_gradient(leader, pairs) / largest
            return jnp.concatenate([log_prob(leader, pairs)[:, None], u], -1)

        return discriminator(env, settings, extra=1 + env.d, see=see)

    one = jnp.ones(())

    def init(rng: Array) -> tuple[Tree, Tree]:
        phi, opt = divided_by(one).init(rng)
        return {"D": phi, "largest": one}, opt

    def update(rng: Array, phi: Tree, opt: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        seen = (jnp.abs(state_gradient(leader, pairs)).max() for pairs in (policy, expert))
        largest = jnp.maximum(*seen)
        largest = jnp.maximum(largest, jnp.finfo(largest.dtype).tiny)
        D, opt, metrics = divided_by(largest).update(rng, phi["D"], opt, leader, policy, expert)
        return {"D": D, "largest": largest}, opt, metrics

    def reward(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        return divided_by(phi["largest"]).reward(phi["D"], leader, pairs)

    return Follower(init, update, reward)


def state_gradient(leader: Leader, pairs: Pairs) -> Array:
    """u = grad_s log pi_theta(a|s) [B, d], detached; 0 where there is no state to act in."""
    u = jax.lax.stop_gradient(jax.vmap(jax.grad(leader))(pairs.s, pairs.a))
    return jnp.where(pairs.absorbing[:, None] > 0, 0.0, u)


def l2l_gail_opt(env: Environment, settings: FollowerSettings) -> Follower:
    """h = g([s, a]; w), and phi is {"w": w, "rule": the parameters of what moves w}.

    w <- w + phi_lr * tanh(m(grad_w L_D, carry)), m being the cell of the RNN-learned inner
    optimiser (section 2.1), one for all coordinates. The rule climbs L_D after `unroll` such steps
    on the other half of the pairs. The gradients that it sees are constants for it, as there.
    """
    net, cell, tx = MLP(1), CoordinateLSTM(), optax.adam(settings.rule_lr)

    def logit(w: Tree, leader: Leader, pairs: Pairs) -> Array:
        return net.apply({"params": w}, pair_input(env, pairs))[:, 0]  # pyright: ignore

    L_D = objective(logit)

    def init(rng: Array) -> tuple[Tree, Tree]:
        w_key, rule_key = jax.random.split(rng)
        w = net.init(w_key, jnp.zeros(pair_size(env)))["params"]
        flat, _ = ravel_pytree(w)
        seen = sign_log(flat)
        rule = cell.init(rule_key, (seen, cell.zero_carry(flat)))["params"]
        return {"w": w, "rule": rule}, tx.init(rule)

    def move(rule: Tree, w: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        """w after `unroll` steps of the rule, and the metrics before the last of them."""
        carry, metrics = None, {}
        for _ in range(settings.unroll):
            grads, metrics = jax.grad(L_D, has_aux=True)(
                jax.lax.stop_gradient(w), leader, policy, expert
            )
            q, unravel = ravel_pytree(grads)
            seen = sign_log(jax.lax.stop_gradient(q))
            carry = cell.zero_carry(q) if carry is None else carry
            o, carry = cell.apply({"params": rule}, (seen, carry))  # pyright: ignore
            w = jax.tree.map(jnp.add, w, unravel(settings.phi_lr * jnp.tanh(o)))
        return w, metrics

    def update(rng: Array, phi: Tree, opt: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        halves = [_halves(rng, pairs) for pairs in (policy, expert)]

        def reached(rule: Tree):
            w, metrics = move(rule, phi["w"], leader, halves[0][0], halves[1][0])
            return L_D(w, leader, halves[0][1], halves[1][1])[0], (w, metrics)

        grads, (w, metrics) = jax.grad(reached, has_aux=True)(phi["rule"])
        updates, opt = tx.update(jax.tree.map(jnp.negative, grads), opt, phi["rule"])
        return {"w": w, "rule": optax.apply_updates(phi["rule"], updates)}, opt, metrics

    def reward(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        return jax.lax.stop_gradient(REWARDS[settings.reward](logit(phi["w"], leader, pairs)))

    return Follower(init, update, reward)


def _halves(rng: Array, pairs: Pairs) -> tuple[Pairs, Pairs]:
    order = jax.random.permutation(rng, len(pairs.s))
    half = len(order) // 2
    first, second = (
        jax.tree.map(lambda leaf, part=part: leaf[part], pairs)
        for part in (order[:half], order[half:])
    )
    return first, second


FOLLOWERS: dict[str, Callable[[Environment, FollowerSettings], Follower]] = {
    "gail": gail,
    "gail_gp": gail_gp,
    "l2l_gail": l2l_gail,
    "airl_like": airl_like,
    "l2l_gail_opt": l2l_gail_opt,
    "constant_reward": constant_reward,
    "blind": blind,
    "environment": environment,
}
"""The followers by name; a new one is a function and a row. `environment` is no imitation."""
