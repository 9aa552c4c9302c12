"""Attacks over a set of images: accuracies, curves, who fools whom. It knows no run."""
