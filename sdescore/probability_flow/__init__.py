"""The probability-flow ODE: sampling, encoding and likelihood without noise."""
