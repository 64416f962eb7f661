"""Every objective has the gradient of the Fisher divergence, and its minimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    Loss,
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from tests.helpers.objectives import (
    F64,
    axes,
    bumps,
    cloud,
    expected,
    grid,
    ones,
    signs,
    true_score,
)

OBJECTIVES: dict[str, Callable[[Any, Tensor], Loss]] = {
    "explicit": lambda s, x: explicit_loss(s, x, true_score),
    "implicit": lambda s, x: implicit_loss(s, x),
    "hutchinson": lambda s, x: implicit_loss(s, x, trace="hutchinson", probes=signs(x)),
    "reduced": lambda s, x: sliced_loss(s, x, probes=axes(x), reduced_variance=True),
    "sliced": lambda s, x: sliced_loss(s, x, probes=signs(x)),
    "sliced-axes": lambda s, x: sliced_loss(s, x, probes=axes(x)),
}


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_truth_is_a_stationary_point_and_all_agree_elsewhere(name: str, kind: str) -> None:
    """At any W the gradient is that of ½ E‖s − ∇log p‖², written out here; at W = 0 it is 0."""
    assert expected(OBJECTIVES[name], bumps(kind))[1].abs().max() < 1e-11
    model = bumps(kind, 0.5)
    x, w = grid()
    (weight,) = model.parameters()
    fisher = 0.5 * (w * (model(x) - true_score(x)).square().sum(1)).sum()
    (oracle,) = torch.autograd.grad(fisher, weight)
    assert oracle.abs().max() > 0.01
    torch.testing.assert_close(expected(OBJECTIVES[name], model)[1], oracle, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_implicit_and_explicit_differ_by_half_the_squared_score(kind: str) -> None:
    x, w = grid()
    constant = 0.5 * (w * true_score(x).square().sum(1)).sum().item()
    for weight in (0.0, 0.7):
        model = bumps(kind, weight)
        explicit = expected(OBJECTIVES["explicit"], model)[0]
        for name in list(OBJECTIVES)[1:]:
            implicit = expected(OBJECTIVES[name], model)[0]
            assert explicit - implicit == pytest.approx(constant, rel=1e-10), name
    assert expected(OBJECTIVES["explicit"], bumps(kind))[0] == 0


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_denoising_is_implicit_plus_half_d_over_sigma_squared(kind: str) -> None:
    """E over clean nodes × noise nodes; ½ E‖ε/σ‖² = d/2σ² is all that denoising adds."""
    sde, t = ss.VPSDE(), 0.15
    sigma = sde.marginal(t)[1].item()
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    clean = torch.cat([-1.0 + 0.5 * nodes, 0.8 + 0.3 * nodes])
    share = torch.cat([0.3 * weights, 0.7 * weights])
    x0, noise = torch.cartesian_prod(clean, nodes).unsqueeze(2).unbind(1)
    w = torch.outer(share, weights).flatten()

    def field(x: Tensor, t: Tensor) -> Tensor:
        return -torch.sin(1.3 * x) - 0.2 * x

    def log_field(x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        return (torch.cos(1.3 * x) / 1.3 - 0.1 * x.square()).sum(1)

    score = field if kind == "score" else ss.EnergyModel(log_field)
    dsm = ss.denoising_loss(score, x0, sde=sde, t=t, noise=noise, weighting=ones)
    options: dict[str, Any] = {"sde": sde, "t": t, "noise": noise, "weighting": ones}
    for loss in (
        implicit_loss(score, x0, **options),
        sliced_loss(score, x0, probe_distribution="sphere", **options),
        implicit_loss(lambda x: score(x, torch.tensor(t)), sde.perturb(x0, t, noise)),
    ):
        gap = (w * (dsm.per_sample - loss.per_sample)).sum().item()
        assert gap == pytest.approx(1 / (2 * sigma**2), rel=1e-9)


EXACT: dict[str, Callable[[Any, Tensor], Loss]] = {
    "implicit": lambda s, x: implicit_loss(s, x, chunk_size=2),
    "hutchinson": lambda s, x: implicit_loss(s, x, trace="hutchinson", probes=axes(x)),
    "sliced": lambda s, x: sliced_loss(s, x, probes=axes(x)),
    # Differences are exact here, for any step: the score is linear, the energy quadratic.
    "finite-difference": lambda s, x: finite_difference_loss(s, x, probes=axes(x), epsilon=0.3),
}


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("name", EXACT)
def test_the_minimiser_is_the_inverse_covariance(name: str, kind: str) -> None:
    """s = b − A x: A is the inverse of the data's covariance (over n) and b = A mean."""
    x, d = cloud(), 3
    rows, columns = torch.tril_indices(d, d)

    def unpack(theta: Tensor) -> tuple[Tensor, Tensor]:
        if kind == "score":
            return theta[: d * d].reshape(d, d), theta[d * d :]
        lower = torch.zeros(d, d, dtype=F64).index_put((rows, columns), theta[:-d])
        return lower + lower.tril(-1).T, theta[-d:]

    def loss(theta: Tensor) -> Tensor:
        A, b = unpack(theta)
        if kind == "score":
            return EXACT[name](lambda x: b - x @ A.T, x).mean
        return EXACT[name](ss.EnergyModel(lambda x: x @ b - 0.5 * ((x @ A) * x).sum(1)), x).mean

    zero = torch.zeros(d * d + d if kind == "score" else len(rows) + d, dtype=F64)
    hessian = torch.autograd.functional.hessian(loss, zero)
    gradient = torch.autograd.functional.jacobian(loss, zero)
    if name in ("sliced", "finite-difference"):
        assert torch.linalg.eigvalsh(hessian).min() > 0
    A, b = unpack(torch.linalg.solve(hessian, -gradient))
    precision = torch.linalg.inv(torch.cov(x.T, correction=0))
    torch.testing.assert_close(A, precision, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(b, precision @ x.mean(0), rtol=1e-7, atol=1e-9)
