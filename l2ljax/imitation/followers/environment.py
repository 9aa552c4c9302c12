"""environment: the task's own reward. No imitation: how experts are made, and the ceiling."""

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import Follower, Settings, still


def make_environment_reward(env: Environment, settings: Settings) -> Follower:
    """The reward that the task gave."""
    return still(lambda phi, leader, pairs: pairs.reward * (1 - pairs.absorbing))
