"""SDEs, parameters and references that the tests of the exact scores share."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss

f64 = torch.float64


SDES = {
    "vp": ss.VPSDE(),
    "subvp": ss.SubVPSDE(),
    "ve": ss.VESDE(sigma_min=0.02, sigma_max=8.0),
    "cosine": ss.CosineVPSDE(),
    "edm": ss.EDMSDE(sigma_max=20.0),
    "flow": ss.RectifiedFlowSDE(),
    "discrete_vp": ss.DiscreteVPSDE.linear(40, 1e-3, 0.2),
    "discrete_ve": ss.DiscreteVESDE.geometric(sigma_max=8.0, sigma_min=0.02, levels=17),
    "from_marginal": ss.LinearSDE.from_marginal(lambda t: torch.exp(-t), lambda t: t.sinh()),
}


every_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())


def times(sde, n=5):
    # Off the knots of the discrete SDEs, where a second derivative jumps.
    return [sde.T * (0.013 + 0.97 * k / n) for k in range(n)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def parameters(components, d, kind="full", seed=1):
    means = 1.5 * normal(components, d, seed=seed)
    weights = torch.arange(1, components + 1, dtype=f64)
    if kind == "full":
        A = normal(components, d, d, seed=seed + 1)
        covariances = 0.2 * A @ A.mT + 0.02 * torch.eye(d, dtype=f64)
    else:
        shape = (components, d) if kind == "diagonal" else (components,)
        covariances = normal(*shape, seed=seed + 2).square() + 0.05
    return weights / weights.sum(), means, covariances


def as_full(covariances, d):
    if covariances.ndim == 3:
        return covariances
    return torch.diag_embed(covariances.reshape(len(covariances), -1).expand(-1, d))


def reference(score_parameters, d, alpha, sigma):
    """torch.distributions' own mixture, which factorises the covariances."""
    weights, means, covariances = score_parameters
    D = torch.distributions
    C = alpha**2 * as_full(covariances, d) + sigma**2 * torch.eye(d, dtype=f64)
    components = D.MultivariateNormal(alpha * means, C)
    return D.MixtureSameFamily(D.Categorical(probs=weights), components)


def close(a, b, tol=1e-9):
    assert a.shape == b.shape
    scale = b.abs().max().clamp(min=1e-300)
    assert (a - b).abs().max() <= tol * scale, ((a - b).abs().max() / scale).item()
