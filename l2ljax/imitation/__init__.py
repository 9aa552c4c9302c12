"""Generative adversarial imitation as a game of two players; our own design (docs/imitation.md).

    from l2ljax import imitation

    imitation.make_expert("CartPole-v1", "cartpole.npz")
    run = imitation.imitate(
        environment="CartPole-v1", follower="l2l_gail", seeds=[0, 1], demonstrations="cartpole.npz"
    )
    run.summary["returns"]              # of each seed, the mean of 50 episodes
    run.metrics["return"]               # [seeds, turns]
    run.act(0)(s)                       # the most likely action of seed 0's policy in the state s

The leader is a policy theta. The follower is a discriminator phi that may see first-order
information on the leader, as the gradient attacker sees the classifier's. All seeds of a call are
one program. With a `workdir`, the same call again resumes an interrupted run, bit for bit, since a
turn is a function of the state alone; without one the run lives in memory.

`leader` has the tasks and the policy, `followers` and `l2l_followers` are the other side,
`training` is one turn of the game, `demonstrations` makes and keeps the expert's trajectories,
`runs` is a whole run, `comparison` runs followers side by side and measures how stable they were.
"""

from l2ljax.imitation.demonstrations import (
    Demonstrations,
    clone,
    collect,
    expert_pairs,
    first_trajectories,
    make_expert,
    play,
)
from l2ljax.imitation.followers import REWARDS, Follower, FollowerSettings, Pairs
from l2ljax.imitation.l2l_followers import FOLLOWERS
from l2ljax.imitation.leader import TASKS, Environment, Policy, make_environment, make_policy
from l2ljax.imitation.runs import RUN, SETTINGS, Imitation, imitate, resolve
from l2ljax.imitation.training import PPO, State, init_state, make_turn

__all__ = [
    "FOLLOWERS",
    "PPO",
    "REWARDS",
    "RUN",
    "SETTINGS",
    "TASKS",
    "Demonstrations",
    "Environment",
    "Follower",
    "FollowerSettings",
    "Imitation",
    "Pairs",
    "Policy",
    "State",
    "clone",
    "collect",
    "expert_pairs",
    "first_trajectories",
    "imitate",
    "init_state",
    "make_environment",
    "make_expert",
    "make_policy",
    "make_turn",
    "play",
    "resolve",
]
