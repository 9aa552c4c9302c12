"""Learning-to-learn adversarial training in JAX/Flax."""
