"""The networks, all flax.linen: classifiers theta by name and attackers phi by name.

The learned optimiser's cell is an attacker too, of single coordinates: `CoordinateLSTM`. A user's
own classifier, linen or nnx, is made by `make_classifier` as well.

Classifiers take images in [0, 1], NHWC, of any size and channel count, and normalise inside by the
mean and std they are given; the code of L2L, TRADES and GradAlign feeds raw pixels (mean 0, std 1).
`dtype` is the type of the computation only: parameters and BatchNorm statistics are float32, and a
classifier's last layer computes in float32, or in float64 where `dtype` is that.
"""

from l2ljax.models.attackers import ATTACKERS, CoordinateLSTM, label, make_attacker
from l2ljax.models.classifiers import MODELS, make_classifier

__all__ = [
    "ATTACKERS",
    "MODELS",
    "CoordinateLSTM",
    "label",
    "make_attacker",
    "make_classifier",
]
