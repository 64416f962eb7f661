"""Markov chain Monte Carlo on a score: chains at one noise level, or with no SDE at all."""
