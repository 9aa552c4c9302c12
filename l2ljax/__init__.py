"""Learning-to-learn adversarial training in JAX/Flax: the public names, nothing else.

    from l2ljax import functional, initialise, init_state, make_method, make_step

The scripts in experiments/ are built on these and on `l2ljax.data`, `l2ljax.checkpoint` and
`l2ljax.record`, which are imported on their own because they bring orbax and the data formats.
"""

from l2ljax import attacks, losses, models, schedules, solvers
from l2ljax.attacker_input import image_and_gradient, input_gradient, normalise
from l2ljax.bilevel import init_state, make_step
from l2ljax.functional import functional, initialise
from l2ljax.methods import METHODS, make_method
from l2ljax.types import Inner, Method, Problem, Solver, State

__all__ = [
    "METHODS",
    "Inner",
    "Method",
    "Problem",
    "Solver",
    "State",
    "attacks",
    "functional",
    "image_and_gradient",
    "init_state",
    "initialise",
    "input_gradient",
    "losses",
    "make_method",
    "make_step",
    "models",
    "normalise",
    "schedules",
    "solvers",
]
