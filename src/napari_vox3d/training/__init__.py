"""Training of models, simulation of training data, and evaluation."""
