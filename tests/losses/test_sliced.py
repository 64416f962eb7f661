"""The probes: distributions, means and variances."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from sdescore.score.divergence import probes_from_normal
from tests.helpers.objectives import (
    F64,
    A,
    cloud,
    draw,
)

Z = scipy.stats.norm.isf(0.5e-6)  # two-sided, alpha = 1e-6


DISTRIBUTIONS = ["rademacher", "gaussian", "sphere"]


POINT = torch.tensor([0.4, -1.1, 0.8], dtype=F64)


def quadratic_form(matrix: Tensor, distribution: str) -> tuple[float, float]:
    """Mean and variance of vᵀMv, from the fourth moments of v."""
    S, d = (matrix + matrix.T) / 2, len(matrix)
    off, trace = S - S.diag().diag(), S.trace().item()
    return trace, {
        "rademacher": 2 * off.square().sum().item(),
        "gaussian": 2 * S.square().sum().item(),
        "sphere": 2 * d / (d + 2) * (S.square().sum().item() - trace**2 / d),
    }[distribution]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("probes", [1, 3])
def test_mean_and_variance_of_the_probes(distribution: str, reduced: bool, probes: int) -> None:
    """One point many times over: a quadratic form in v, whose moments are known."""
    n = 60_000
    s = A @ POINT
    M = A if reduced else A + 0.5 * torch.outer(s, s)
    mean, variance = quadratic_form(M, distribution)
    mean, variance = mean + (0.5 * s @ s).item() * reduced, variance / probes
    loss = sliced_loss(
        lambda x: x @ A.T,
        POINT.expand(n, 3),
        probes=probes,
        probe_distribution=distribution,
        reduced_variance=reduced,
        generator=torch.Generator().manual_seed(5),
    )
    values = loss.per_sample
    assert abs(values.mean().item() - mean) < Z * math.sqrt(variance / n)
    squared = (values - mean).square()
    assert abs(squared.mean().item() - variance) < Z * squared.std().item() / math.sqrt(n)


@pytest.mark.parametrize("d", [2, 8])
def test_reduced_variance_saves_at_the_truth_in_more_than_two_dimensions(d: int) -> None:
    """N(0, I), s = −x, Gaussian probes: the variance from v is d²/2 + d, or 2d reduced.

    Given x it is 2‖−I + ½xxᵀ‖² = 2d − 2‖x‖² + ½‖x‖⁴; two probes' half squared gap estimates it.
    """
    x, generator = draw(40_000, d), torch.Generator().manual_seed(6)
    for reduced, variance in ((False, d**2 / 2 + d), (True, 2 * d)):
        one, two = (
            sliced_loss(lambda x: -x, x, reduced_variance=reduced, generator=generator).per_sample
            for _ in range(2)
        )
        estimates = 0.5 * (one - two).square()
        error = Z * estimates.std().item() / math.sqrt(len(x))
        assert abs(estimates.mean().item() - variance) < error
    assert (d**2 / 2 + d > 2 * d) == (d > 2)


def test_distributions_of_the_probes() -> None:
    normal = draw(4, 1000, 2, 3)
    rademacher, sphere = (
        probes_from_normal(distribution, normal) for distribution in ("rademacher", "sphere")
    )
    assert torch.equal(rademacher, normal.sign())
    torch.testing.assert_close(
        sphere.flatten(2).square().sum(2), torch.full((4, 1000), 6.0).double()
    )
    torch.testing.assert_close(
        sphere.flatten(2) * normal.flatten(2).norm(dim=2, keepdim=True),
        math.sqrt(6) * normal.flatten(2),
    )
    assert torch.equal(probes_from_normal("gaussian", normal), normal)
    one = draw(2, 50)
    torch.testing.assert_close(probes_from_normal("sphere", one), one.sign())  # no dimension
    assert probes_from_normal("sphere", draw(2, 5, 0)).shape == (2, 5, 0)


def test_defaults_are_the_papers() -> None:
    """Gaussian probes for sliced, signs for Hutchinson, the sphere for differences."""
    x, seeded = cloud(), lambda: torch.Generator().manual_seed(1)
    s = lambda x: torch.sin(x) - x  # noqa: E731
    energy = ss.EnergyModel(lambda x: -(x.square() / 2 + x.cos()).sum(1))
    for defaults, distribution in (
        (sliced_loss(s, x, generator=seeded()), "gaussian"),
        (implicit_loss(s, x, trace="hutchinson", generator=seeded()), "rademacher"),
        (finite_difference_loss(energy, x, generator=seeded()), "sphere"),
        (finite_difference_loss(s, x, generator=seeded()), "sphere"),
    ):
        v = probes_from_normal(distribution, torch.randn(1, 50, 3, generator=seeded(), dtype=F64))
        by_hand = [
            sliced_loss(s, x, probes=v),
            implicit_loss(s, x, trace="hutchinson", probes=v),
            finite_difference_loss(energy, x, probes=v),
            finite_difference_loss(s, x, probes=v),
        ]
        assert any(torch.equal(defaults.per_sample, other.per_sample) for other in by_hand), (
            distribution
        )
    torch.testing.assert_close(
        finite_difference_loss(energy, x, generator=seeded()).mean,
        finite_difference_loss(energy, x, epsilon=0.03, generator=seeded()).mean,
    )
    torch.testing.assert_close(
        finite_difference_loss(s, x, generator=seeded()).mean,
        finite_difference_loss(s, x, epsilon=0.005, generator=seeded()).mean,
    )
