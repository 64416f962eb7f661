"""The guide with an explicit covariance: linear algebra on Gaussians, MMPS elsewhere."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from tests.helpers.posteriors import (
    COVARIANCE,
    CURVED,
    F64,
    MEAN,
    MIXTURE,
    SEEN,
    VP,
    A,
    exact_mmps,
    inverse,
    posterior_score,
    states,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("sde", [VP, ss.VESDE(), ss.RectifiedFlowSDE()], ids=repr)
def test_the_posterior_of_gaussian_data_is_exact(sde: ss.LinearSDE) -> None:
    """Any covariance of the data, by Kalman's formulas."""
    guided = inverse.moments(ss.GaussianScore(MEAN, COVARIANCE, sde), SEEN)
    for share in (0.05, 0.4, 0.9):
        t = torch.tensor(share * sde.T, dtype=F64)
        alpha, sigma = sde.marginal(t)
        x = alpha * states() + sigma
        rest = torch.zeros(2, dtype=F64)
        expected = posterior_score(x, alpha, sigma, MEAN, COVARIANCE, A, rest)
        torch.testing.assert_close(guided(x, t).detach(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("measurement", [SEEN, CURVED], ids=["linear", "curved"])
def test_it_is_mmps_without_a_solver(measurement: ss.inverse.Measurement) -> None:
    """The matrix that MMPS multiplies with, inverted whole; data that are no Gaussian."""
    x, t = states(), torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=F64)
    found = inverse.moments(MIXTURE, measurement)(x, t)
    expected = exact_mmps(MIXTURE, measurement)(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
