"""What a task wants of imitation, whatever the follower; flags of experiments/gail.py.

Our own choices: the paper's section could not be obtained. With one step of the follower a turn and
a policy rate of 3e-4 (`--phi_steps=1 --theta_lr=3e-4`) plain GAIL ended at 228 on CartPole with one
trajectory (10 seeds), with five steps and 1e-3, the defaults, at 500 (4 seeds).
"""

from typing import Any

TASK: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"iterations": 150},
    "Acrobot-v1": {"iterations": 150, "entropy": 0.01},
    "MountainCarContinuous-v0": {"iterations": 150, "entropy": 0.01, "gamma": 0.999},
    "Pendulum-v1": {"iterations": 300, "epochs": 10, "minibatches": 8},
}
"""A turn has 2,048 steps of the task."""
