"""What a task wants of imitation, whatever the follower; flags of experiments/gail.py.

Our own choices: the paper's section could not be obtained. Below papers.md 1.9's suggestion (one
step of the follower a turn, policy rate 3e-4) plain GAIL stood at 228 on CartPole after as many
steps (`--phi_steps=1 --theta_lr=3e-4`, 10 seeds), with five and 1e-3 at 500.
"""

from typing import Any

TASK: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"iterations": 150},
    "Acrobot-v1": {"iterations": 150, "entropy": 0.01},
    "MountainCarContinuous-v0": {"iterations": 150, "entropy": 0.01, "gamma": 0.999},
    "Pendulum-v1": {"iterations": 300, "epochs": 10, "minibatches": 8},
}
"""A turn has 2,048 steps of the task."""
