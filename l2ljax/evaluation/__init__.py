"""Attacks over a set of images: accuracies, curves, who fools whom. It knows no run."""

from l2ljax.evaluation.accuracy import evaluate, freeze, robust
from l2ljax.evaluation.results import Evaluation, Result, wilson
from l2ljax.evaluation.transfer import transfer

__all__ = ["Evaluation", "Result", "evaluate", "freeze", "robust", "transfer", "wilson"]
