"""The inner problems; each says by `stop_gradient` what may pass through delta.

hand_made: none, fgsm, pgm, n_fgsm, apgd. networks: the attackers g of L2L. recurrent: the learned
optimiser. implicit: Fast-BAT, whose theta learns through delta.
"""

from l2ljax.solvers.hand_made import apgd, fgsm, n_fgsm, none, pgm
from l2ljax.solvers.implicit import fast_bat
from l2ljax.solvers.networks import interp, kstep_l2l, l2l
from l2ljax.solvers.recurrent import rnn

__all__ = [
    "apgd",
    "fast_bat",
    "fgsm",
    "interp",
    "kstep_l2l",
    "l2l",
    "n_fgsm",
    "none",
    "pgm",
    "rnn",
]
