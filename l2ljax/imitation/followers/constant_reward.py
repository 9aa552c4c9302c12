"""constant_reward: the control that looks at nothing. Staying alive pays -log 1/2 a step.

-log D is never negative, so where a long episode is a good one this alone may solve the task.
"""

import math

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import Follower, Settings, still


def make_constant_reward(env: Environment, settings: Settings) -> Follower:
    """-log D of D = 1/2 while an episode lasts, nothing after."""
    return still(lambda phi, leader, pairs: math.log(2) * (1 - pairs.absorbing))
