"""Scores: a network with its convention declared, and the exact ones."""
