"""Predictor–corrector sampling: the chain of moves, the model bound to it, and the one loop."""
