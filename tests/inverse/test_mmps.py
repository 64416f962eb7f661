"""Moment matching: the exact posterior of Gaussian data."""

from __future__ import annotations

import torch

import sdescore as ss
from tests.helpers.posteriors import (
    GAUSSIAN,
    SEEN,
    VP,
    A,
    Y,
    exact_mmps,
    states,
)


def test_the_likelihood_of_a_posterior() -> None:
    """By the flow of MMPS, which differentiates the guided score once more."""
    x, flow = states(2), ss.ProbabilityFlow(VP)
    found = flow.log_likelihood(exact_mmps(GAUSSIAN, SEEN), x).log_prob
    expected = flow.log_likelihood(GAUSSIAN.posterior(A, Y, 0.3), x).log_prob
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
