"""Langevin dynamics on a fixed distribution: chains, their acceptance tests and diagnostics."""
