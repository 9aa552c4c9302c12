"""Generative adversarial imitation as a game of two players; our own design (docs/imitation.md).

Leader: a policy theta. Follower: a discriminator phi that may see first-order information on it, as
the gradient attacker sees the classifier's. `environments` wraps gymnax, `rollouts` and `ppo` are
the leader's, `followers` holds one file for each follower, `training` is one turn of the game,
`cloning` the baseline without a game.
"""

from l2ljax.imitation.cloning import clone
from l2ljax.imitation.demonstrations import Demonstrations, collect, expert_pairs, first
from l2ljax.imitation.environments import TASKS, Environment, make_environment
from l2ljax.imitation.followers import FOLLOWERS, REWARDS, Settings
from l2ljax.imitation.policy import Policy, make_policy
from l2ljax.imitation.ppo import PPO
from l2ljax.imitation.rollouts import play
from l2ljax.imitation.training import State, init_state, make_iteration

__all__ = [
    "FOLLOWERS",
    "PPO",
    "REWARDS",
    "TASKS",
    "Demonstrations",
    "Environment",
    "Policy",
    "Settings",
    "State",
    "clone",
    "collect",
    "expert_pairs",
    "first",
    "init_state",
    "make_environment",
    "make_iteration",
    "make_policy",
    "play",
]
