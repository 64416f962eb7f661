"""Diffusions: the abstract SDE, linear SDEs with their kernels, and one file per SDE."""
