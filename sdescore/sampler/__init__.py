"""The sampler: a program of affine steps, the model bound to it, and the one loop."""
