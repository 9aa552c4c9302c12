"""gail: D sees the pair alone, as the naive attacker sees the image alone (Ho & Ermon 2016)."""

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import Follower, Settings, discriminator


def make_gail(env: Environment, settings: Settings) -> Follower:
    """h = g([s, a]; phi)."""
    return discriminator(env, settings)
