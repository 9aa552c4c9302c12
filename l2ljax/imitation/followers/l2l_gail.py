"""l2l_gail: D also sees the leader, as the gradient attacker does (our own design).

A(s, a, theta) = log pi_theta(a|s) with the current theta, for the expert's pairs too, and on wish
its gradient by the state over the largest entry of the batch (as u in section 1.4.2). Detached: the
leader is not paid for changing what the follower sees. The one surprising thing: D can then tell
policy from expert by the likelihood alone.
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
from l2ljax.types import Array


def make_l2l_gail(env: Environment, settings: Settings) -> Follower:
    """h = g([s, a, A(s, a, theta)]; phi)."""

    def see(leader: Leader, pairs: Pairs) -> Array:
        seen = [log_prob(leader, pairs)[:, None]]
        if settings.state_gradient:
            u = jax.lax.stop_gradient(jax.vmap(jax.grad(leader))(pairs.s, pairs.a))
            u = jnp.where(pairs.absorbing[:, None] > 0, 0.0, u)
            largest = jnp.max(jnp.abs(u))
            seen.append(u / jnp.maximum(largest, jnp.finfo(u.dtype).tiny))
        return jnp.concatenate(seen, -1)

    extra = 1 + (env.d if settings.state_gradient else 0)
    return discriminator(env, settings, extra=extra, see=see)
