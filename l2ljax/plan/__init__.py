"""Runs planned for machines that are not here: compiled, counted and costed.

print(make_plan({"method": "grad_l2l", "dataset": "cifar10"}, "v5e-4"))
"""

from l2ljax.plan.plan import Plan
from l2ljax.plan.planning import make_plan

__all__ = ["Plan", "make_plan"]
