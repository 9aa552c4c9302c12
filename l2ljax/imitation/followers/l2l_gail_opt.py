"""l2l_gail_opt: a learned optimiser moves D's parameters w (the paper's words, taken literally).

w <- w + bound * tanh(m_phi(grad_w L_D, carry)), the cell of the RNN-learned inner optimiser
(section 2.1), one for all coordinates; phi climbs L_D after `unroll` such steps on the other half
of the pairs. The gradients that the cell sees are constants for phi, as there.
"""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import (
    REWARDS,
    Follower,
    Pairs,
    Settings,
    objective,
    pair,
    seen_of_a_pair,
)
from l2ljax.imitation.nets import MLP
from l2ljax.imitation.policy import Leader
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers.recurrent import sign_log
from l2ljax.types import Array, Tree


def make_l2l_gail_opt(env: Environment, settings: Settings) -> Follower:
    """D's w and the rule's phi are both the follower's: {"w": w, "rule": phi}."""
    net, cell, tx = MLP(1), CoordinateLSTM(), optax.adam(settings.rule_lr)

    def logit(w: Tree, leader: Leader, pairs: Pairs) -> Array:
        return net.apply({"params": w}, pair(env, pairs))[:, 0]  # pyright: ignore

    L_D = objective(logit)

    def init(rng: Array) -> tuple[Tree, Tree]:
        w_key, rule_key = jax.random.split(rng)
        w = net.init(w_key, jnp.zeros(seen_of_a_pair(env)))["params"]
        flat, _ = ravel_pytree(w)
        seen = sign_log(flat)
        rule = cell.init(rule_key, (seen, cell.zero_carry(flat)))["params"]
        return {"w": w, "rule": rule}, tx.init(rule)

    def move(rule: Tree, w: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        """w after `unroll` steps of the rule, and what the last of them saw."""
        carry, metrics = None, {}
        for _ in range(settings.unroll):
            grads, metrics = jax.grad(L_D, has_aux=True)(
                jax.lax.stop_gradient(w), leader, policy, expert
            )
            q, unravel = ravel_pytree(grads)
            seen = sign_log(jax.lax.stop_gradient(q))
            carry = cell.zero_carry(q) if carry is None else carry
            o, carry = cell.apply({"params": rule}, (seen, carry))  # pyright: ignore
            w = jax.tree.map(jnp.add, w, unravel(settings.lr * jnp.tanh(o)))
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
