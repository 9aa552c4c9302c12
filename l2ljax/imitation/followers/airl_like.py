"""airl_like: log pi is subtracted instead of fed (Fu et al. 2018), the remedy for l2l_gail's trap.

D = pi / (exp f + pi), so that its logit is log pi_theta(a|s) - f(s, a): the network need not learn
the likelihood, and the reward is f - log pi.
"""

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import Follower, Settings, discriminator, log_prob


def make_airl_like(env: Environment, settings: Settings) -> Follower:
    """h = g([s, a]; phi) + log pi_theta(a|s), g = -f."""
    return discriminator(env, settings, plus=log_prob)
