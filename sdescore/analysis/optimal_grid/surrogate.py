r"""A small stand-in for data: a mixture where they spread most, Gaussian modes elsewhere.

Of the eigenvectors of the data's covariance, the r with the largest variance carry a mixture of
Gaussians with full covariances, fitted by expectation–maximisation (Dempster, Laird & Rubin 1977;
Bishop 2006, section 9.2.2); the other d − r are independent and Gaussian. The diffused score is
exact and cheap at any d: in :math:`z = x/\alpha` and :math:`\varrho = \sigma/\alpha`

.. math::
   E[x_0 | z] = \sum_k r_k(z) \bigl[m_k + C_k (C_k + \varrho^2 I)^{-1} (z - m_k)\bigr] .
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.analysis.chain import Spectrum
from sdescore.analysis.pca import principal_axes, rows
from sdescore.checks import is_count, require

RANK, COMPONENTS, LARGEST = 64, 16, 10_000
ROUNDS = 60


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A mixture of K Gaussians on r directions, and independent modes beside it; float64.

    Attributes
    ----------
    weights, means, variances, axes : Tensor
        ``(K,)``, ``(K, r)``, ``(K, r)`` and ``(K, r, r)``: covariances by their eigenvalues and,
        in columns, eigenvectors. r may be 0.
    rest : Tensor
        ``(d − r,)`` variances of the other modes.
    spectrum : Tensor
        ``(d,)`` eigenvalues of the whole covariance, largest first.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor
    rest: Tensor
    spectrum: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return self.means.shape[1]

    def responsibilities(self, z: Tensor, noise: Tensor | float) -> tuple[Tensor, Tensor]:
        """``P(k | z)`` ``(B, K)`` at noise variance ϱ², and z in every component's axes."""
        # One product of two matrices, for all components.
        y = (z @ self.axes.permute(1, 0, 2).flatten(1)).view(len(z), *self.means.shape)
        y = y - torch.einsum("kd,kde->ke", self.means, self.axes)
        V = self.variances + noise
        log_p = self.weights.log() - 0.5 * ((y * (1 / V) * y).sum(-1) + V.log().sum(-1))
        return log_p.softmax(-1), y

    def denoise(self, z: Tensor, noise: Tensor) -> Tensor:
        """``E[x₀ | z]`` for ``z`` ``(B, r)`` at noise variance ϱ² ``()``."""
        r, y = self.responsibilities(z, noise)
        shrunk = r[..., None] * (self.variances / (self.variances + noise)) * y
        return r @ self.means + shrunk.flatten(1) @ self.axes.mT.flatten(0, 1)

    def precision(self, x: Tensor, floor: float) -> Tensor:
        """The components' mean precision at data ``x``, ``(B, r, r)``; variances + ``floor``."""
        r, _ = self.responsibilities(x, floor)
        inverses = torch.einsum(
            "kde,ke,kfe->kdf", self.axes, 1 / (self.variances + floor), self.axes
        )
        return torch.einsum("bk,kdf->bdf", r, inverses)

    def places(self) -> list[tuple[float, Spectrum]]:
        """The components one by one, as Gaussians of the r directions: weights and modes."""
        means = torch.einsum("kd,kde->ke", self.means - self.weights @ self.means, self.axes)
        parts = zip(self.weights.tolist(), self.variances, means, strict=True)
        return [(weight, Spectrum(V, m)) for weight, V, m in parts if self.rank]


def gaussian_surrogate(spectrum: Tensor) -> Surrogate:
    """Independent modes alone, from ``(d,)`` variances."""
    none, axes = (torch.zeros(shape, dtype=torch.float64) for shape in ((1, 0), (1, 0, 0)))
    rest = spectrum.to("cpu", torch.float64)
    return Surrogate(torch.ones(1).double(), none, none, axes, rest, rest)


def fit_surrogate(data: Tensor, components: int | None = None, *, seed: int = 0) -> Surrogate:
    """Fit a surrogate to ``data`` ``(n, *E)``.

    Parameters
    ----------
    data : Tensor
        n >= 2, finite; at most 10,000, drawn at random, are used for the mixture.
    components : int, optional
        K; by default as many as n data in r dimensions can tell apart, at most 16.
    seed : int
        Of the choice of data and of the first centres.

    Raises
    ------
    ShapeError, ScheduleError
        Bad data, or a K that is not an integer from 1 to n.
    """
    x = rows(data)
    rank = min(RANK, x.shape[1])
    spectrum, leading, _ = principal_axes(x, rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(x), generator=generator)[:LARGEST].to(x.device)
    y = x[kept].to("cpu", torch.float64) @ leading
    if components is None:
        components = max(1, min(COMPONENTS, len(y) // (4 * rank)))
    usable = is_count(components) and 1 <= components <= len(y)
    require(usable, f"an integer number of components from 1 to {len(y)}", f"{components!r}")
    weights, means, covariances = mixture(y, components, generator)
    variances, axes = torch.linalg.eigh(covariances)
    return Surrogate(weights, means, variances, axes, spectrum[rank:], spectrum)


def mixture(y: Tensor, K: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances by expectation–maximisation, each covariance drawn towards
    their mean as if by r more data."""
    n, r = y.shape
    share = torch.nn.functional.one_hot(nearest(y, centres(y, K, generator)), K).double()
    floor = 1e-6 * y.var(0).mean()
    for _ in range(ROUNDS):
        count = share.sum(0) + 1e-9
        weights, means = count / count.sum(), share.T @ y / count[:, None]
        away = y[:, None] - means
        scatter = torch.einsum("nk,nkd,nke->kde", share, away, away)
        pooled = scatter.sum(0) / n + floor * torch.eye(r, dtype=torch.float64)
        covariances = (scatter + r * pooled) / (count + r)[:, None, None]
        factor = torch.linalg.cholesky(covariances)
        u = torch.linalg.solve_triangular(factor, away.permute(1, 2, 0), upper=False)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        share = (weights.log() - log_det - 0.5 * u.square().sum(1).T).softmax(1)
    return weights, means, covariances


def centres(y: Tensor, K: int, generator: torch.Generator) -> Tensor:
    """K data far from each other (k-means++, Arthur & Vassilvitskii 2007), moved to their means."""
    chosen = [int(torch.randint(len(y), (1,), generator=generator))]
    distance = torch.full((len(y),), math.inf, dtype=torch.float64)
    for _ in range(K - 1):
        distance = torch.minimum(distance, (y - y[chosen[-1]]).square().sum(1))
        chosen.append(int(torch.multinomial(distance + 1e-300, 1, generator=generator)))
    found = y[chosen]
    for _ in range(10):
        share = torch.nn.functional.one_hot(nearest(y, found), K).double()
        count = share.sum(0)[:, None]
        found = torch.where(count > 0, share.T @ y / count.clamp(min=1), found)
    return found


def nearest(y: Tensor, to: Tensor) -> Tensor:
    """Index of the nearest centre, ``(n,)``."""
    return torch.cdist(y, to).argmin(1)
