"""The followers by name; `make(env, settings)` gives the functions that a game plays with."""

from l2ljax.imitation.followers.airl_like import make_airl_like
from l2ljax.imitation.followers.blind import make_blind
from l2ljax.imitation.followers.constant_reward import make_constant_reward
from l2ljax.imitation.followers.environment import make_environment_reward
from l2ljax.imitation.followers.follower import REWARDS, Follower, Pairs, Settings
from l2ljax.imitation.followers.gail import make_gail
from l2ljax.imitation.followers.gail_gp import make_gail_gp
from l2ljax.imitation.followers.l2l_gail import make_l2l_gail
from l2ljax.imitation.followers.l2l_gail_opt import make_l2l_gail_opt

FOLLOWERS = {
    "gail": make_gail,
    "gail_gp": make_gail_gp,
    "l2l_gail": make_l2l_gail,
    "airl_like": make_airl_like,
    "l2l_gail_opt": make_l2l_gail_opt,
    "constant_reward": make_constant_reward,
    "blind": make_blind,
    "environment": make_environment_reward,
}
"""`environment` is no imitation: PPO on the task's own reward, which makes the experts."""

__all__ = ["FOLLOWERS", "REWARDS", "Follower", "Pairs", "Settings"]
