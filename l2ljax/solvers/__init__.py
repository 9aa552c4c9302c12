"""The inner problems, one per file; each says by `stop_gradient` what may pass through delta."""

from l2ljax.solvers.apgd import apgd
from l2ljax.solvers.fast_bat import fast_bat
from l2ljax.solvers.fgsm import fgsm
from l2ljax.solvers.grad_l2l import grad_l2l
from l2ljax.solvers.interp import interp
from l2ljax.solvers.kstep_l2l import kstep_l2l
from l2ljax.solvers.multistep_l2l import multistep_l2l
from l2ljax.solvers.n_fgsm import n_fgsm
from l2ljax.solvers.naive_l2l import naive_l2l
from l2ljax.solvers.none import none
from l2ljax.solvers.pgm import pgm
from l2ljax.solvers.rnn import rnn

__all__ = [
    "apgd",
    "fast_bat",
    "fgsm",
    "grad_l2l",
    "interp",
    "kstep_l2l",
    "multistep_l2l",
    "n_fgsm",
    "naive_l2l",
    "none",
    "pgm",
    "rnn",
]
