"""blind: what a D that knows nothing pays, under the run's own form of reward and absorbing states.

Where this solves a task, the form of the reward does, and not imitation. With the defaults it pays
log 1/2 - log 1/2 = 0.
"""

import jax.numpy as jnp

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import REWARDS, Follower, Settings, still


def make_blind(env: Environment, settings: Settings) -> Follower:
    """The reward of D = 1/2 for every pair."""
    paid = REWARDS[settings.reward](jnp.zeros(()))
    return still(lambda phi, leader, pairs: jnp.full(len(pairs.s), paid))
