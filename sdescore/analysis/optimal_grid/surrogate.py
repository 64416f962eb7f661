r"""A small stand-in for data: a mixture where they spread most, Gaussian modes elsewhere.

Of the eigenvectors of the data's covariance, the r with the largest variance carry a mixture of
Gaussians with full covariances, fitted by expectation–maximisation (Dempster, Laird & Rubin 1977;
Bishop 2006, section 9.2.2); the other d − r are independent and Gaussian. The diffused score is
exact and cheap at any d: for :math:`\bar x = x/\alpha`, which is the datum plus noise of variance
:math:`v = \sigma^2/\alpha^2`,

.. math::
   E[x_0 | \bar x] = \sum_k r_k(\bar x) \bigl[m_k + C_k (C_k + v I)^{-1} (\bar x - m_k)\bigr] .
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.analysis.pca import data_rows, principal_axes
from sdescore.samplers.predictor_corrector.exact import Spectrum

RANK, COMPONENTS, LARGEST = 64, 16, 10_000
ROUNDS = 60


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A mixture of K Gaussians on r directions, and independent modes beside it; float64."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, r); r may be 0
    variances: Tensor  # (K, r), eigenvalues of the covariances
    axes: Tensor  # (K, r, r), their eigenvectors, in columns
    rest: Tensor  # (d − r,), variances of the other modes
    spectrum: Tensor  # (d,), eigenvalues of the whole covariance, largest first

    @property
    def rank(self) -> int:
        """r."""
        return self.means.shape[1]

    def responsibilities(self, x_bar: Tensor, noise: Tensor | float) -> tuple[Tensor, Tensor]:
        """``P(k | x̄)`` ``(B, K)`` at noise variance σ²/α², and x̄ in every component's axes."""
        # One product of two matrices, for all components.
        y = (x_bar @ self.axes.permute(1, 0, 2).flatten(1)).view(len(x_bar), *self.means.shape)
        y = y - torch.einsum("kd,kde->ke", self.means, self.axes)
        V = self.variances + noise
        log_p = self.weights.log() - 0.5 * ((y * (1 / V) * y).sum(-1) + V.log().sum(-1))
        return log_p.softmax(-1), y

    def denoise(self, x_bar: Tensor, noise: Tensor) -> Tensor:
        """``E[x₀ | x̄]`` for ``x_bar`` = x/α ``(B, r)`` at noise variance σ²/α² ``()``."""
        r, y = self.responsibilities(x_bar, noise)
        shrunk = r[..., None] * (self.variances / (self.variances + noise)) * y
        return r @ self.means + shrunk.flatten(1) @ self.axes.mT.flatten(0, 1)

    def precision(self, x: Tensor, noise: float) -> Tensor:
        """The components' mean precision ``(B, r, r)`` at ``x``, data with this noise variance."""
        r, _ = self.responsibilities(x, noise)
        V = self.variances + noise
        inverses = torch.einsum("kde,ke,kfe->kdf", self.axes, 1 / V, self.axes)
        return torch.einsum("bk,kdf->bdf", r, inverses)

    def components(self) -> list[tuple[float, Spectrum]]:
        """The weight of each component, and its modes about the mixture's mean."""
        means = torch.einsum("kd,kde->ke", self.means - self.weights @ self.means, self.axes)
        parts = zip(self.weights.tolist(), self.variances, means, strict=True)
        return [(weight, Spectrum(V, m)) for weight, V, m in parts if self.rank]


def gaussian_surrogate(spectrum: Tensor) -> Surrogate:
    """Independent modes alone, from ``(d,)`` variances."""
    rest = spectrum.detach().to("cpu", torch.float64, copy=True)
    none, axes = rest.new_zeros(1, 0), rest.new_zeros(1, 0, 0)
    return Surrogate(rest.new_ones(1), none, none, axes, rest, rest)


def fit_surrogate(data: Tensor, components: int | None = None, *, seed: int = 0) -> Surrogate:
    """Fit a surrogate of K components to ``data`` ``(n, *E)``, n >= 2, finite.

    At most 10,000 data, drawn at random, are used for the mixture. K is by default as many as n
    data in r dimensions can tell apart, at most 16.
    """
    x = data_rows(data)
    rank = min(RANK, x.shape[1])
    spectrum, leading, _ = principal_axes(x, rank, seed=seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    indices = torch.randperm(len(x), generator=generator, device="cpu")[:LARGEST].to(x.device)
    y = x[indices].to("cpu", torch.float64) @ leading
    if components is None:
        components = max(1, min(COMPONENTS, len(y) // (4 * rank)))
    components = checks.count("components", components, at_most=len(y))
    weights, means, covariances = mixture(y, components, generator)
    variances, axes = torch.linalg.eigh(covariances)
    return Surrogate(weights, means, variances, axes, spectrum[rank:], spectrum)


def mixture(y: Tensor, K: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances by expectation–maximisation.

    Each covariance is drawn towards the mean of all, as if by r more data.
    """
    n, r = y.shape
    share = torch.nn.functional.one_hot(nearest(y, centres(y, K, generator)), K).double()
    smallest = 1e-6 * y.var(0).mean() * torch.eye(r, dtype=torch.float64, device="cpu")
    for _ in range(ROUNDS):
        count = share.sum(0) + 1e-9
        weights, means = count / count.sum(), share.T @ y / count[:, None]
        away = y[:, None] - means
        scatter = torch.einsum("nk,nkd,nke->kde", share, away, away)
        pooled = scatter.sum(0) / n + smallest
        covariances = (scatter + r * pooled) / (count + r)[:, None, None]
        factor = torch.linalg.cholesky(covariances)
        u = torch.linalg.solve_triangular(factor, away.permute(1, 2, 0), upper=False)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        share = (weights.log() - log_det - 0.5 * u.square().sum(1).T).softmax(1)
    return weights, means, covariances


def centres(y: Tensor, K: int, generator: torch.Generator) -> Tensor:
    """K data far from each other (k-means++, Arthur & Vassilvitskii 2007), moved to their means."""
    first = torch.randint(len(y), (1,), generator=generator, device="cpu", dtype=torch.int64)
    indices = [int(first)]
    distance = y.new_full((len(y),), math.inf)
    for _ in range(K - 1):
        distance = torch.minimum(distance, (y - y[indices[-1]]).square().sum(1))
        indices.append(int(torch.multinomial(distance + 1e-300, 1, generator=generator)))
    found = y[indices]
    for _ in range(10):
        share = torch.nn.functional.one_hot(nearest(y, found), K).double()
        count = share.sum(0)[:, None]
        found = torch.where(count > 0, share.T @ y / count.clamp(min=1), found)
    return found


def nearest(y: Tensor, to: Tensor) -> Tensor:
    """Index of the nearest centre, ``(n,)``."""
    return torch.cdist(y, to).argmin(1)
