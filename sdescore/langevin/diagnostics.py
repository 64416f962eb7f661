r"""Whether chains agree, and how many independent draws they are worth.

For M chains of N draws, with chain means :math:`\bar\theta_m` and variances :math:`s_m^2`,

.. math::
   W &= \frac1M \sum_m s_m^2, \qquad B = \frac{N}{M - 1} \sum_m (\bar\theta_m - \bar\theta)^2, \\
   \widehat{\mathrm{var}}^+ &= \frac{N - 1}{N} W + \frac1N B, \qquad
   \widehat R = \sqrt{\widehat{\mathrm{var}}^+ / W}, \\
   \hat\rho_t &= 1 - \frac{W - \frac1M \sum_m s_m^2\, \hat\rho_{t,m}}
   {\widehat{\mathrm{var}}^+}, \qquad S_{\mathrm{eff}} = \frac{NM}{\hat\tau}, \\
   \hat\tau &= -1 + 2 \sum_{k=0}^{K} \min_{j \le k} \bigl( \hat\rho_{2j} + \hat\rho_{2j+1} \bigr)

(Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, arXiv:1903.08008, sections 2 and 3). The sum is
Geyer's (1992) initial monotone sequence: K is the last pair before the first that is not
positive. Every chain is split in two halves first, so that one that drifts disagrees with itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError

__all__ = ["effective_sample_size", "r_hat"]


def effective_sample_size(path: Tensor) -> Tensor:
    r"""How many independent draws give the mean of each element as exactly as the path does.

    Parameters
    ----------
    path : Tensor
        ``(n, chains, *E)``, n >= 8; the middle draw of an odd number is left out.

    Returns
    -------
    Tensor
        ``(*E)``, float64; at most :math:`S \log_{10} S` of S draws, which only chains that
        alternate reach. NaN for an element that never moves.

    Raises
    ------
    ShapeError, ParameterError
        Not ``(n, chains, *E)``, or too few draws; NaN or infinity in it.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> draws = torch.randn(1000, 4, 2, generator=torch.Generator().manual_seed(0))
    >>> bool((ss.langevin.effective_sample_size(draws) / 4000 - 1).abs().max() < 0.2)
    True
    """
    halves = _halves(path)
    n, chains, *event = halves.shape
    if not halves.numel():
        return halves.new_empty(event)
    W, total = _variances(halves)
    covariances = _autocovariance(halves).mean(1) * n / (n - 1)
    rho = 1 - (W - covariances) / total
    pairs = rho[0 : n - 1 : 2] + rho[1::2]
    started = (pairs > 0).cumprod(0)
    tau = -1 + 2 * (started * pairs.cummin(0).values).sum(0)
    draws = n * chains
    return draws * tau.clamp(min=1 / math.log10(draws)).reciprocal()


def r_hat(path: Tensor, *, ranked: bool = True) -> Tensor:
    r"""How far the chains disagree, √(variance of all / variance within); 1 at convergence.

    Parameters
    ----------
    path : Tensor
        ``(n, chains, *E)``, n >= 8; refused as by :func:`effective_sample_size`.
    ranked : bool
        Compute R̂ of the normal scores of the draws' ranks,
        :math:`\Phi^{-1}\bigl((r - 3/8)/(S + 1/4)\bigr)`, and of their distances from the
        median; return the larger. It detects heavy tails and chains of different width. False is
        the split R̂ of the draws themselves.

    Returns
    -------
    Tensor
        ``(*E)``, float64; above 1.01 means not yet (Vehtari et al. 2021, section 4). NaN for an
        element that never moves.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> draws = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(ss.langevin.r_hat(draws) < 1.01)
    True
    >>> bool(ss.langevin.r_hat(draws + torch.arange(4)) > 1.5)
    True
    """
    halves = _halves(path)
    if not halves.numel():
        return halves.new_empty(halves.shape[2:])
    if not ranked:
        return _split_r_hat(halves)
    ordered = halves.flatten(0, 1).sort(0).values  # an even number of draws
    middle = 0.5 * (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2])
    folded = (halves - middle).abs()
    return torch.maximum(_split_r_hat(_scores(halves)), _split_r_hat(_scores(folded)))


def _halves(path: Tensor) -> Tensor:
    """Both halves of each chain, ``(n // 2, 2 chains, *E)`` float64."""
    checks.state(path, "path")
    if path.ndim < 2 or path.shape[0] < 8 or path.shape[1] < 1:
        expected = "a path (n, chains, *E) with n >= 8 and a chain at least"
        checks.refuse(expected, f"{tuple(path.shape)}; run longer, or thin less", ShapeError)
    checks.finite_tensor("path", path)
    half = path.shape[0] // 2
    return torch.cat([path[:half], path[-half:]], dim=1).detach().double()


def _variances(halves: Tensor) -> tuple[Tensor, Tensor]:
    """W and var⁺, ``(*E)``; var⁺ is NaN where nothing moves, whatever rounding says."""
    n = halves.shape[0]
    W = halves.var(0).mean(0)
    total = (n - 1) / n * W + halves.mean(0).var(0)
    still = (halves == halves[0, 0]).flatten(0, 1).all(0)
    return W, total.masked_fill(still, torch.nan)


def _split_r_hat(halves: Tensor) -> Tensor:
    W, total = _variances(halves)
    return (total / W).sqrt()


def _autocovariance(halves: Tensor) -> Tensor:
    """At lags 0 … n − 1, ``(n, 2 chains, *E)``, each a sum over n − t products divided by n."""
    n = halves.shape[0]
    spectrum = torch.fft.rfft(halves - halves.mean(0), n=2 * n, dim=0)  # padded: no wrap-around
    products: Tensor = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)
    return products[:n] / n


def _scores(halves: Tensor) -> Tensor:
    """Normal scores of the ranks over all draws, ties at their mean rank."""
    from scipy.stats import rankdata

    draws = halves.flatten(0, 1)
    ranks = torch.from_numpy(rankdata(draws.cpu().numpy(), axis=0)).to(halves)
    scores: Tensor = torch.special.ndtri((ranks - 0.375) / (len(draws) + 0.25))
    return scores.reshape(halves.shape)
