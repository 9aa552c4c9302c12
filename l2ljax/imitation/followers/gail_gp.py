"""gail_gp: plain GAIL under a gradient penalty, the control for every claim about stability.

(|d h / d (s, a)| - 1)^2 on points between a policy's and an expert's pair (Gulrajani et al. 2017;
for GAIL Kostrikov et al. 2019).
"""

import jax
import jax.numpy as jnp

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import (
    Follower,
    Logit,
    Settings,
    discriminator,
    objective,
    pair,
)
from l2ljax.imitation.nets import MLP


def make_gail_gp(env: Environment, settings: Settings) -> Follower:
    """L_D - penalty * mean (|grad h| - 1)^2."""

    def gain(logit: Logit):
        L_D = objective(logit)

        def value(rng, phi, leader, policy, expert):
            gained, metrics = L_D(phi, leader, policy, expert)
            points = [pair(env, pairs) for pairs in (policy, expert)]
            t = jax.random.uniform(rng, (len(points[0]), 1))
            between = t * points[0] + (1 - t) * points[1]

            def h(point):
                return MLP(1).apply({"params": phi}, point)[0]

            slopes = jnp.linalg.norm(jax.vmap(jax.grad(h))(between), axis=-1)
            penalty = jnp.mean((slopes - 1) ** 2)
            return gained - settings.penalty * penalty, metrics | {"phi/penalty": penalty}

        return value

    return discriminator(env, settings, gain=gain)
