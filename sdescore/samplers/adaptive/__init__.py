"""Sampling with steps that are chosen by an estimate of their own error."""
