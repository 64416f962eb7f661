"""Guidance: score in, score out."""
