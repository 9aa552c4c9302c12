"""The networks, all flax.linen: classifiers theta by name and attackers phi by name.

Classifiers take images in [0, 1], NHWC, of any size and channel count, and normalise inside.
`dtype` is the type of the computation only: parameters and BatchNorm statistics are float32.
"""

from l2ljax.models.attackers import ATTACKERS, label, make_attacker
from l2ljax.models.classifiers import MODELS, make_classifier

__all__ = ["ATTACKERS", "MODELS", "label", "make_attacker", "make_classifier"]
