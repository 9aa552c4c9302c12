"""Attacks over a set of images: accuracies, curves and tables. It knows no run."""
