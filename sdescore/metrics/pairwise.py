r"""Energy distance and maximum mean discrepancy: means over all pairs of samples.

Both are :math:`2\,m(x, y) - m(x, x) - m(y, y)` (up to sign), where m is the mean of a function of
the distance over all pairs. Pairs are visited in blocks, so memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.metrics.samples import flatten, flatten_pair, shuffled

__all__ = ["energy_distance", "median_bandwidth", "mmd", "mmd_squared"]

_BLOCK = 2048  # rows and columns of the largest distance matrix ever built (float64, 32 MiB)
_MEDIAN_SAMPLES = 500  # samples of each set that the median heuristic looks at

Function = Callable[[Tensor], Tensor]


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Energy distance between two sample sets, the root of the V-statistic.

    .. math::

        D(x, y) = \Big( \frac{2}{NM} \sum_{i,j} |x_i - y_j|
            - \frac{1}{N^2} \sum_{i,j} |x_i - x_j|
            - \frac{1}{M^2} \sum_{i,j} |y_i - y_j| \Big)^{1/2}

    The sums keep the zero diagonals, so D is a metric between the two empirical measures: never
    negative, and zero only if they are equal. The price is a known bias: for two sets from one
    distribution, E[D²] = E|X−X′| (1/N + 1/M). D² is Eq. (1) of Rizzo and Székely (2016), "Energy
    distance"; Székely and Rizzo (2013), "Energy statistics", treats the V-statistic. It costs
    (N + M)²/2 distances, and is in the square root of the data's units, right to about 1e-8 of the
    root of the mean distance. In one dimension it equals ``scipy.stats.energy_distance``.

    Parameters
    ----------
    x, y : Tensor
        Samples ``(N, *E)`` and ``(M, *E)``, floating point; flattened, float64 inside.

    Raises
    ------
    ShapeError
        Empty sets, different event shapes or devices, or not floating point.
    ParameterError
        NaN or infinite values.

    Examples
    --------
    >>> import torch
    >>> round(energy_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])) ** 2, 9)
    10.0
    """
    a, b = flatten_pair(x, y)
    across, within_a, within_b = _pair_means(a, b, lambda distance: distance)
    return math.sqrt(max(2.0 * across - within_a - within_b, 0.0))


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    r"""Maximum mean discrepancy with a Gaussian kernel, the root of the V-statistic.

    .. math::

        \mathrm{MMD}_b(x, y) = \Big( \frac{1}{N^2} \sum_{i,j} k(x_i, x_j)
            - \frac{2}{NM} \sum_{i,j} k(x_i, y_j)
            + \frac{1}{M^2} \sum_{i,j} k(y_i, y_j) \Big)^{1/2},
        \qquad k(a, b) = \exp\!\Big( -\frac{|a - b|^2}{2 h^2} \Big)

    (Gretton et al. 2012, "A kernel two-sample test", Eq. 5). It is between 0 and √2, without
    units. Like :func:`energy_distance` it is a metric between the two empirical measures, biased
    upwards: for two sets from one distribution, E[MMD²] = (1 − E k(X, X′)) (1/N + 1/M). For
    tests and for averages over many sets use :func:`mmd_squared`, which has no bias.

    Parameters
    ----------
    x, y
        As in :func:`energy_distance`.
    bandwidth : float, optional
        h, in the units of the data. Default: :func:`median_bandwidth` of x and y. That
        grows as the sets move apart; to compare several x with one reference, fix h once
        from the reference: ``functools.partial(mmd, bandwidth=median_bandwidth(ref))``.

    Raises
    ------
    ShapeError, ParameterError
        As :func:`energy_distance`; ParameterError also for a ``bandwidth`` that is not positive
        and finite, or where there is no default one (see :func:`median_bandwidth`).

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 1)
    >>> value = mmd(x, x + 2.0, bandwidth=1.0)  # k = exp(-2)
    >>> round(value**2, 6) == round(2.0 - 2.0 * 0.1353352832, 6)
    True
    """
    a, b = flatten_pair(x, y)
    across, within_a, within_b = _pair_means(a, b, _kernel(x, y, bandwidth))
    return math.sqrt(max(within_a + within_b - 2.0 * across, 0.0))


def mmd_squared(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    r"""Unbiased estimate of MMD² with a Gaussian kernel, the U-statistic.

    The sums of :func:`mmd` without their diagonals, over N(N−1) and M(M−1) pairs (Gretton et al.
    2012, "A kernel two-sample test", Lemma 6 and Eq. 3), without units. Its mean over data sets is
    the MMD² of the two distributions, so under equality it is negative half of the time: not a
    distance, no root, and no ratio to a noise floor. Parameters and errors are those of
    :func:`mmd`, and a set of a single sample is a ShapeError. A ``bandwidth`` chosen from the same
    samples (the default) spoils the unbiasedness a little.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> mmd_squared(x, x, bandwidth=1.0) < 0.0
    True
    """
    a, b = flatten_pair(x, y, at_least=2)
    across, within_a, within_b = _pair_means(a, b, _kernel(x, y, bandwidth))
    # k(x, x) = 1 on the diagonal: take it out and rescale.
    off_a = (within_a * len(a) - 1.0) / (len(a) - 1)
    off_b = (within_b * len(b) - 1.0) / (len(b) - 1)
    return off_a + off_b - 2.0 * across


def median_bandwidth(x: Tensor, y: Tensor | None = None, seed: int = 0) -> float:
    """Median distance between pairs of samples: the usual bandwidth h of :func:`mmd`.

    In the units of the data (Gretton et al. 2012, section 8).

    Parameters
    ----------
    x, y : Tensor
        Samples ``(N, *E)`` and optionally ``(M, *E)``; with both, the median is over all
        pairs of the pooled samples, and does not depend on their order.
    seed : int
        Seed of the subsample: at most 500 samples of each set are looked at.

    Raises
    ------
    ShapeError, ParameterError
        As :func:`energy_distance`; ShapeError also for fewer than two samples in all,
        ParameterError for a median of zero (half of the pairs coincide).

    Examples
    --------
    >>> import torch
    >>> median_bandwidth(torch.tensor([[0.0], [1.0], [5.0]]))
    4.0
    """
    seed = checks.seed(seed)
    sets = (flatten(x, "x", at_least=2),) if y is None else flatten_pair(x, y)
    orders = [shuffled(len(a), torch.Generator("cpu").manual_seed(seed), a.device) for a in sets]
    shown = (order[:_MEDIAN_SAMPLES] for order in orders)
    pooled = torch.cat([a[indices] for a, indices in zip(sets, shown, strict=True)])
    median = float(torch.nn.functional.pdist(pooled).median())
    got = (
        "a median distance of 0 (half of the pairs coincide); give mmd(..., bandwidth=...) yourself"
    )
    checks.that(median != 0.0, "samples that differ", got)
    return median


def _kernel(x: Tensor, y: Tensor, bandwidth: float | None) -> Function:
    """The Gaussian kernel, as a function of the distance."""
    if bandwidth is None:
        bandwidth = median_bandwidth(x, y)
    h = checks.number("bandwidth", bandwidth, above=0)
    return lambda distance: torch.exp(-0.5 * (distance / h) ** 2)


def _pair_means(a: Tensor, b: Tensor, function: Function) -> tuple[float, float, float]:
    """Means of ``function(distance)`` over all pairs: a with b, a with a, b with b."""
    blocks = ((u, v) for u in torch.split(a, _BLOCK) for v in torch.split(b, _BLOCK))
    across = sum((_pair_sum(u, v, function) for u, v in blocks), 0.0)
    within_a, within_b = _symmetric_sum(a, function), _symmetric_sum(b, function)
    return across / (len(a) * len(b)), within_a / len(a) ** 2, within_b / len(b) ** 2


def _symmetric_sum(a: Tensor, function: Function) -> float:
    """Sum over all ordered pairs of one set; blocks below the diagonal mirror those above."""
    blocks = torch.split(a, _BLOCK)
    total = 0.0
    for i, u in enumerate(blocks):
        total += _pair_sum(u, u, function)
        total += 2.0 * sum((_pair_sum(u, v, function) for v in blocks[i + 1 :]), 0.0)
    return total


def _pair_sum(u: Tensor, v: Tensor, function: Function) -> float:
    # Differences first: |u|² + |v|² - 2uv would lose the distance of near neighbours.
    distance = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
    return float(function(distance).sum())
