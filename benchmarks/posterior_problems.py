"""Inverse problems on mixtures of Gaussians, with draws of the exact posterior and its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import sdescore as ss
from sdescore.inverse import Blur, Downsample, Mask, Matrix, Measurement

F64 = torch.float64
SDE = ss.VPSDE()
PROBLEMS = ("denoise", "inpaint", "deblur", "super-resolve", "nonlinear")
STEPS = 100
GRID = 600  # points a side of the quadrature of the nonlinear problem


def prior(d: int) -> ss.MixtureScore:
    """Three modes (two in 6-D) of smooth signals of length d, about 1.5 apart in each element."""
    generator = torch.Generator().manual_seed(d)
    K, place = (2 if d == 6 else 3), torch.arange(d, dtype=F64)
    means = torch.randn(K, d, generator=generator, dtype=F64)
    distance = (place[:, None] - place).abs()
    covariances = torch.stack(
        [(0.1 + 0.1 * k) * torch.exp(-distance / (1 + 0.1 * d)) for k in range(K)]
    )
    weights = torch.arange(1, K + 1, dtype=F64)
    covariances = covariances + 0.02 * torch.eye(d, dtype=F64)
    return ss.MixtureScore(weights / weights.sum(), means, covariances, SDE)


def bend(u: Tensor) -> Tensor:
    """What the nonlinear problem measures of two sums u (one in 2-D)."""
    return u + 0.25 * u**3


@dataclass(frozen=True, eq=False)
class Problem:
    """A measurement of a prior, its exact posterior, and what peers are told of the operator."""

    prior: ss.MixtureScore
    measurement: Measurement
    draw: Callable[[int, int], Tensor]  # exact posterior draws (n, d) of a seed
    log_evidence: float
    matrix: Tensor | None  # (m, d), None where the operator is nonlinear

    def stray(self, x: Tensor) -> float | None:
        """How far the shares of the modes among draws ``x`` are from the exact ones, in [0, 1].

        The total variation, with each draw shared out by the posterior's responsibilities. None
        where the exact posterior is no mixture.
        """
        if self.matrix is None:
            return None
        m = self.measurement
        exact = self.prior.posterior(self.matrix, m.y, m.noise_std)
        modes = torch.distributions.MultivariateNormal(exact.means, covariances_of(exact))
        joint = exact.weights.log() + modes.log_prob(x.double()[:, None])
        return 0.5 * (joint.softmax(1).mean(0) - exact.weights).abs().sum().item()


def problem(name: str, d: int, seed: int) -> Problem:
    """One measurement of one datum of the prior."""
    score = prior(d)
    if name == "nonlinear":
        return nonlinear(score, d, seed)
    operator, noise = {
        "denoise": lambda: (Matrix(torch.eye(d)), 0.5),
        "inpaint": lambda: (Mask(torch.arange(d) % 2 == 0), 0.1),
        "deblur": lambda: (Blur.gaussian(0.8, (d,), axes=1), 0.1),
        "super-resolve": lambda: (Downsample((2 if d < 64 else 4,), (d,)), 0.1),
    }[name]()
    matrix = operator.matrix()
    y = measured(score, lambda x: x @ matrix.T, noise, seed)
    exact = score.posterior(matrix, y, noise)

    def draw(n: int, number: int) -> Tensor:
        return exact.sample(n, seed=number)

    evidence = score.log_evidence(matrix, y, noise)
    return Problem(score, Measurement(y, operator, noise), draw, evidence, matrix)


def measured(
    score: ss.MixtureScore, function: Callable[[Tensor], Tensor], noise: float, seed: int
) -> Tensor:
    """A measurement of draw ``seed`` of the prior."""
    clean = function(score.sample(seed + 1, seed=100, dtype=F64))[seed]
    generator = torch.Generator().manual_seed(seed)
    return clean + noise * torch.randn(clean.shape, generator=generator, dtype=F64)


def nonlinear(score: ss.MixtureScore, d: int, seed: int) -> Problem:
    """y = bend(B x) + noise: quadrature over u = B x, which is a mixture, then x given u.

    The draws of u are those of a grid, spread over its cells. A cell is a hundredth of a standard
    deviation wide, so their distribution is off by less than 1e-4 standard deviations.
    """
    m, noise = (1 if d == 2 else 2), 0.3
    generator = torch.Generator().manual_seed(d + 1)
    B = torch.linalg.qr(torch.randn(d, m, generator=generator, dtype=F64))[0].T
    y = measured(score, lambda x: bend(x @ B.T), noise, seed)
    C, weights = covariances_of(score), score.weights
    means, S = score.means @ B.T, B @ C @ B.T
    prior_u = torch.distributions.MultivariateNormal(means, S)
    spread = 7 * S.diagonal(dim1=1, dim2=2).sqrt()
    low, high = (means - spread).amin(0), (means + spread).amax(0)
    axes = [torch.linspace(a, b, GRID, dtype=F64) for a, b in zip(low, high, strict=True)]
    u = torch.cartesian_prod(*axes).reshape(-1, m)
    cells = torch.stack([axis[1] - axis[0] for axis in axes])
    components = weights.log() + prior_u.log_prob(u[:, None])
    log_likelihood = -0.5 * ((y - bend(u)) / noise).square().sum(1)
    log_likelihood = log_likelihood - m * math.log(noise * math.sqrt(2 * math.pi))
    joint = components.logsumexp(1) + log_likelihood
    evidence = (joint.logsumexp(0) + cells.log().sum()).item()
    cumulative = joint.softmax(0).cumsum(0)

    def draw(n: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        cell = torch.searchsorted(cumulative, torch.rand(n, generator=generator, dtype=F64))
        cell = cell.clamp(max=len(u) - 1)
        jitter = torch.rand(n, m, generator=generator, dtype=F64) - 0.5
        k = torch.multinomial(components[cell].softmax(1), 1, generator=generator)[:, 0]
        normal = torch.randn(n, d, 1, generator=generator, dtype=F64)
        x = score.means[k] + (torch.linalg.cholesky(C)[k] @ normal)[..., 0]
        gain = torch.linalg.solve(S, B @ C).mT[k]  # C Bᵀ (B C Bᵀ)⁻¹
        residual = u[cell] + cells * jitter - x @ B.T
        return (x + (gain @ residual[..., None])[..., 0]).float()

    operator = ss.inverse.Callable(lambda x: bend(x @ B.T.to(x)), (d,))
    return Problem(score, Measurement(y, operator, noise), draw, evidence, None)


Method = Callable[[Problem, int, int], tuple[Tensor, float | None]]
"""``(problem, draws, seed) -> draws (n, d), log-evidence``."""


class Unable(Exception):
    """The method has no answer to this problem."""


def covariances_of(score: ss.MixtureScore) -> Tensor:
    """``(K, d, d)``, from the mixture's own spectra."""
    p = score._source
    U = p.matrices()
    return (U * p.eigenvalues[:, None]) @ U.mT
