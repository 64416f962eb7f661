"""Sampling with a step size of its own for every sample."""
