r"""How to choose an NCSN's ladder from the data (Song & Ermon 2020, arXiv:2006.09011, section 3).

Of the paper's five techniques, :func:`largest_distance` (1), :func:`ratio_for_overlap` (2) and
:func:`langevin_step_size` (4) are numbers. Technique 3 is ``ScoreModel(net, sde,
prediction="epsilon")`` with a network that ignores the time, so that :math:`s = -f(x)/\sigma`.
Technique 5 is :class:`sdescore.EMA`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError, ShapeError
from sdescore.shapes import flat

__all__ = [
    "langevin_step_size",
    "largest_distance",
    "levels_for_ratio",
    "ratio_for_overlap",
    "shell_overlap",
    "variance_ratio",
]

MAX_LEVELS = 100_000
"""Longest ladder made from data; the papers' have 10 to 2311 levels."""


def largest_distance(data: Tensor, block: int = 512, limit: int = 60_000) -> float:
    r"""The largest Euclidean distance between two of ``data``; technique 1.

    With :math:`r_i` the distance of datum i from the mean, :math:`\|x_i - x_j\| \le r_i + r_j`. The
    function compares pairs block by block, the farthest data first, and skips those that cannot
    exceed the largest distance so far. The result is exact (to float32's rounding in choosing
    between near ties) up to ``limit`` data. Beyond, it is the largest distance among the ``limit``
    farthest data, which is at least half the true value, because some datum lies at least
    :math:`\max_i r_i` from the farthest one.

    The worst case is data near a sphere: nothing is skipped, and the cost is n² d operations.
    Memory is two copies of the data. On one core 60,000 images of 784 pixels take 6 s if they are
    digits, 36 s if they are Gaussian noise.

    Parameters
    ----------
    data : Tensor
        ``(n, *E)``, n >= 2, floating point.
    block, limit : int
        Rows compared at a time, which changes no result; data compared in all pairs. Both >= 1.

    Raises
    ------
    ShapeError, ParameterError
        Fewer than two samples, or not floating point; NaN or infinity, or a bad option.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> ss.sde.largest_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]))
    5.0
    """
    checks.state(data, "data")
    if len(data) < 2:
        checks.refuse("at least two samples", f"data of shape {tuple(data.shape)}", ShapeError)
    block, limit = checks.count("block", block), checks.count("limit", limit)
    checks.finite_tensor("data", data)
    rows = flat(data)
    # Distances of nearby points far from the origin cancel: centre, and work at unit scale.
    centred = rows.to(torch.promote_types(rows.dtype, torch.float32))
    centred = centred - centred.mean(0, dtype=torch.float64).to(centred)
    if not bool(centred.any()):
        return 0.0  # all data are one point
    points = (centred / centred.abs().max()).float()
    radius, order = points.norm(dim=1).sort(descending=True)

    # A good start: the point farthest from the mean, the farthest from that, and from that.
    i = int(order[0])
    best, pair = 0.0, (i, i)
    for _ in range(2):
        distances = (points - points[i]).norm(dim=1)
        j = int(distances.argmax())
        if distances[j].item() > best:
            best, pair = distances[j].item(), (i, j)
        i = j

    order, radii = order[:limit], radius[:limit].tolist()
    points = points[order]
    for a in range(0, len(points), block):
        for b in range(a, len(points), block):
            if radii[a] + radii[b] <= best:
                break
            distances = torch.cdist(points[a : a + block], points[b : b + block])
            where = int(distances.argmax())
            if (found := distances.flatten()[where].item()) > best:
                row, column = divmod(where, distances.shape[1])
                best, pair = found, (int(order[a + row]), int(order[b + column]))
    # The search is in float32, by matrix products; the distance of the pair it found is not.
    return float((rows[pair[0]].double() - rows[pair[1]].double()).norm())


def shell_overlap(ratio: float, dim: int) -> float:
    r"""The share of a level that lies in the typical set of the level above; technique 2.

    The radius of :math:`\mathcal N(0, \sigma^2 I)` in D dimensions tends to
    :math:`\mathcal N(\sqrt D \sigma, \sigma^2/2)` as D grows. The share of σ_i's radii within three
    standard deviations of the radius at :math:`\sigma_{i-1} = \gamma \sigma_i` is then

    .. math:: \Phi\bigl(\sqrt{2D}(\gamma - 1) + 3\gamma\bigr)
              - \Phi\bigl(\sqrt{2D}(\gamma - 1) - 3\gamma\bigr) .

    It is 0.9973 at γ = 1. As γ grows, it rises and then falls to 0 for D > 4. For D <= 4 it never
    falls, because the interval around a Gaussian radius then reaches below zero.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.sde.shell_overlap(1.0, dim=3072) > ss.sde.shell_overlap(1.1, dim=3072)
    True
    """
    ratio = checks.number("ratio", ratio, above=0, error=ScheduleError)
    dim = checks.count("dim", dim, error=ScheduleError)
    gap, width = math.sqrt(2 * dim) * (ratio - 1), 3 * ratio
    return 0.5 * (math.erfc((gap - width) / math.sqrt(2)) - math.erfc((gap + width) / math.sqrt(2)))


def ratio_for_overlap(overlap: float, dim: int) -> float:
    r"""The ratio γ > 1 whose :func:`shell_overlap` is ``overlap``; there is one.

    The derivative in γ has the sign of :math:`(a + 3) e^{-6 a \gamma (\gamma - 1)} - (a - 3)` with
    :math:`a = \sqrt{2D}`, which changes once if a > 3: ``dim`` below 5, or ``overlap`` outside
    (0, 0.997), raises ``ScheduleError``.

    Examples
    --------
    >>> import sdescore as ss
    >>> ratio = ss.sde.ratio_for_overlap(0.5, dim=3072)
    >>> round(ss.sde.shell_overlap(ratio, dim=3072), 6)
    0.5
    """
    overlap = checks.number("overlap", overlap, above=0, below=0.997, error=ScheduleError)
    if not checks.is_count(dim) or not 5 <= dim <= checks.MOST:
        why = "for only then is the radius near enough to Gaussian that an overlap gives a ratio"
        expected = f"at least 5 elements an event, {why}; pass levels= or ratio="
        checks.refuse(expected, f"{dim!r}", ScheduleError)
    low, high = 0.0, 1.0  # of γ − 1
    while shell_overlap(1 + high, dim) > overlap:
        low, high = high, 2 * high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if shell_overlap(1 + middle, dim) > overlap else (low, middle)
    return 1 + low


def levels_for_ratio(sigma_max: float, sigma_min: float, ratio: float) -> int:
    """The fewest levels from σ_1 down to σ_L < σ_1 whose ratio is at most ``ratio``.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.sde.levels_for_ratio(sigma_max=8.0, sigma_min=1.0, ratio=2.0)  # 8, 4, 2, 1
    4
    """
    low = checks.number("sigma_min", sigma_min, above=0, error=ScheduleError)
    high = checks.number("sigma_max", sigma_max, above=low, error=ScheduleError)
    ratio = checks.number("ratio", ratio, above=1, error=ScheduleError)
    gaps = (math.log(high) - math.log(low)) / math.log(ratio)
    return 1 + math.ceil(gaps * (1 - 1e-12))  # a whole number of gaps stays whole


def variance_ratio(step_size: float, ratio: float, inner_steps: int) -> float:
    r"""A level's variance after its Langevin steps, over σ_i²; technique 4.

    Where p is a Gaussian of variance σ_i² about one datum, T inner steps
    :math:`x + r \sigma_i^2 s + \sqrt{2 r}\, \sigma_i z` of step size r take the variance
    :math:`\gamma^2 \sigma_i^2` to σ_i² times

    .. math:: (1 - r)^{2T} \Bigl(\gamma^2 - \frac{2r}{1 - (1 - r)^2}\Bigr)
              + \frac{2r}{1 - (1 - r)^2} .

    It exceeds 1 for every r in (0, 2), for so do γ² and its limit :math:`2/(2 - r)`.

    Examples
    --------
    >>> import sdescore as ss
    >>> round(ss.sde.variance_ratio(0.1, ratio=1.0, inner_steps=1000), 3)  # 1/(1 − r/2)
    1.053
    """
    step_size = checks.number("step_size", step_size, above=0, below=2, error=ScheduleError)
    ratio = checks.number("ratio", ratio, above=0, error=ScheduleError)
    inner_steps = checks.count("inner_steps", inner_steps, error=ScheduleError)
    remaining, limit = (1 - step_size) ** (2 * inner_steps), 2 / (2 - step_size)
    return remaining * (ratio**2 - limit) + limit


def langevin_step_size(ratio: float, inner_steps: int) -> float:
    r"""The r = τ/σ_i² that minimises :func:`variance_ratio`; in (0, 1), and there is one.

    With q = 1 − r the derivative in q vanishes where

    .. math:: \gamma^2 = \frac{2}{1 + q} + \frac{q^{1 - 2T} - q}{T (1 + q)^2} ,

    whose right side falls from ∞ at q = 0 to 1 at q = 1. A negative q is worse than −q.

    Raises
    ------
    ScheduleError, ParameterError
        ``ratio`` is not above 1; ``inner_steps`` is no integer >= 1.

    Examples
    --------
    >>> import sdescore as ss
    >>> r = ss.sde.langevin_step_size(ratio=1.3, inner_steps=5)
    >>> ss.sde.variance_ratio(r, 1.3, 5) < ss.sde.variance_ratio(2 * r, 1.3, 5)
    True
    """
    ratio = checks.number("ratio", ratio, above=1, error=ScheduleError)
    T = checks.count("inner_steps", inner_steps)
    low, high = 0.0, 1.0  # of r
    while low < (r := 0.5 * (low + high)) < high:
        q, power = 1 - r, (1 - r) ** (2 * T - 1)
        # The equation times q^(2T−1): it neither overflows nor cancels where T is large.
        rising = T * power * ((1 + q) ** 2 * ratio**2 - 2 * (1 + q)) > 1 - power * q
        low, high = (r, high) if rising else (low, r)
    return r
