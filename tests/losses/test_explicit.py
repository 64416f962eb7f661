"""The explicit objective and the score of a kernel density estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from sdescore.losses import (
    explicit_loss,
    kernel_density_score,
)
from tests.helpers.memory import Peak
from tests.helpers.objectives import (
    draw,
)


def test_a_bandwidth_is_found_without_a_copy_of_the_data() -> None:
    data = torch.randn(10_000, 512, generator=torch.Generator().manual_seed(0))
    with Peak() as memory:
        kernel_density_score(data)
    assert memory.peak < 1.5 * data.nbytes  # some columns in float64; all of them are twice that


def test_kernel_density_score_is_scipy_s() -> None:
    """SciPy's kernels have the data's covariance, so whiten it; its log density by differences."""
    for d, rule in ((1, "scott"), (2, "silverman")):
        raw = draw(40, d, seed=8).numpy() * 1.7 + 0.3
        L = np.linalg.cholesky(np.atleast_2d(np.cov(raw.T)))
        data = 1.3 * np.linalg.solve(L, raw.T).T
        kde = scipy.stats.gaussian_kde(data.T, bw_method=rule)
        score = kernel_density_score(torch.tensor(data), rule)
        assert score.bandwidth == pytest.approx(1.3 * kde.factor, rel=1e-12)
        x, h = draw(6, d, seed=9), 1e-5
        torch.testing.assert_close(
            score.log_prob(x), torch.tensor(kde.logpdf(x.numpy().T)), rtol=1e-10, atol=1e-10
        )
        for j in range(d):
            step = h * np.eye(d)[j]
            up, down = (kde.logpdf((x.numpy() + sign * step).T) for sign in (1, -1))
            slope = torch.tensor((up - down) / (2 * h))
            torch.testing.assert_close(score(x)[:, j], slope, rtol=1e-6, atol=1e-6)
    given = kernel_density_score(torch.tensor(data), 0.4)
    assert given.bandwidth == 0.4 and kernel_density_score(torch.tensor(data)).bandwidth == (
        pytest.approx(1.3 * 40 ** (-1 / 6))
    )
    # The rules take the root mean square of the elements' deviations, in any event shape.
    uneven = draw(30, 2, 2) * torch.tensor([1.0, 3.0])
    rms = math.sqrt(uneven.numpy().reshape(30, 4).var(0, ddof=1).mean())
    assert kernel_density_score(uneven).bandwidth == pytest.approx(rms * 30 ** (-1 / 8))
    loss = explicit_loss(lambda x: -x, x, given)
    torch.testing.assert_close(loss.per_sample, 0.5 * (x + given(x)).square().sum(1))
