"""l2l_gail: D also sees the leader, as the gradient attacker does (our own design).

A(s, a, theta) = log pi_theta(a|s) with the current theta, for the expert's pairs too, and on wish
its gradient by the state, as u in section 1.4.2. Detached: the leader is not paid for changing what
the follower sees. D can then tell policy from expert by the likelihood alone.

The gradient is divided by one number a turn: its largest entry over both sides' pairs, those that
D learns from. phi keeps that number, and the rewards of the turn divide by it too. With a maximum
for each side D could read from the scale which side it looks at.
"""

import jax
import jax.numpy as jnp

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import (
    Follower,
    Pairs,
    Settings,
    discriminator,
    log_prob,
)
from l2ljax.imitation.policy import Leader
from l2ljax.types import Array, Tree


def make_l2l_gail(env: Environment, settings: Settings) -> Follower:
    """h = g([s, a, A(s, a, theta)]; phi)."""
    if not settings.state_gradient:

        def see(leader: Leader, pairs: Pairs) -> Array:
            return log_prob(leader, pairs)[:, None]

        return discriminator(env, settings, extra=1, see=see)
    return _with_gradient(env, settings)


def _with_gradient(env: Environment, settings: Settings) -> Follower:
    """phi is {"D": the network's parameters, "largest": the number to divide by}."""

    def inside(largest: Array) -> Follower:
        def see(leader: Leader, pairs: Pairs) -> Array:
            u = state_gradient(leader, pairs) / largest
            return jnp.concatenate([log_prob(leader, pairs)[:, None], u], -1)

        return discriminator(env, settings, extra=1 + env.d, see=see)

    one = jnp.ones(())

    def init(rng: Array) -> tuple[Tree, Tree]:
        phi, opt = inside(one).init(rng)
        return {"D": phi, "largest": one}, opt

    def update(rng: Array, phi: Tree, opt: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        seen = (jnp.abs(state_gradient(leader, pairs)).max() for pairs in (policy, expert))
        largest = jnp.maximum(*seen)
        largest = jnp.maximum(largest, jnp.finfo(largest.dtype).tiny)
        D, opt, metrics = inside(largest).update(rng, phi["D"], opt, leader, policy, expert)
        return {"D": D, "largest": largest}, opt, metrics

    def reward(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        return inside(phi["largest"]).reward(phi["D"], leader, pairs)

    return Follower(init, update, reward)


def state_gradient(leader: Leader, pairs: Pairs) -> Array:
    """u = grad_s log pi_theta(a|s) [B, d], detached; 0 where there is no state to act in."""
    u = jax.lax.stop_gradient(jax.vmap(jax.grad(leader))(pairs.s, pairs.a))
    return jnp.where(pairs.absorbing[:, None] > 0, 0.0, u)
