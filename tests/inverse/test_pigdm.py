"""ΠGDM against its paper: exact on white data, and a pseudo-inverse without noise."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from tests.helpers.posteriors import (
    F64,
    MEAN,
    MIXTURE,
    SEEN,
    VP,
    A,
    Y,
    inverse,
    posterior_score,
    states,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("sde", [VP, ss.VESDE(), ss.RectifiedFlowSDE()], ids=repr)
def test_the_posterior_of_white_data_is_exact(sde: ss.LinearSDE) -> None:
    """Data N(mean, s² I): Kalman's formulas for x₀ given y, noised to time t."""
    std = 0.7
    guided = inverse.pigdm(ss.GaussianScore(MEAN, std**2, sde), SEEN, std)
    for share in (0.05, 0.4, 0.9):
        t = torch.tensor(share * sde.T, dtype=F64)
        alpha, sigma = sde.marginal(t)
        x = alpha * states() + sigma
        C = std**2 * torch.eye(3, dtype=F64)
        expected = posterior_score(x, alpha, sigma, MEAN, C, A, torch.zeros(2, dtype=F64))
        torch.testing.assert_close(guided(x, t).detach(), expected, rtol=1e-9, atol=1e-9)


def test_without_noise_it_pulls_along_the_pseudo_inverse() -> None:
    """Song et al. 2023 (ICLR), section 3: Jᵀ H†(y − H x̂₀)/r², with r² = σ²/(α² + σ²)."""
    guided, x = inverse.pigdm(MIXTURE, inverse.Measurement(Y, inverse.Matrix(A), 0.0)), states()
    for t in (0.2, 0.6):
        alpha, sigma = VP.marginal(t)
        found = guided(x, t) - MIXTURE(x, t)
        for row in range(len(x)):
            one = x[row : row + 1]
            J = torch.autograd.functional.jacobian(lambda z, t=t: MIXTURE.denoise(z, t)[0], one)
            residual = Y - A @ MIXTURE.denoise(one, t)[0]
            r2 = sigma**2 / (alpha**2 + sigma**2)
            expected = J[:, 0].T @ torch.linalg.pinv(A) @ residual / r2
            torch.testing.assert_close(found[row], expected, rtol=1e-8, atol=1e-9)
