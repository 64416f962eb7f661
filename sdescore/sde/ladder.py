r"""How to choose an NCSN's ladder from the data (Song & Ermon 2020, arXiv:2006.09011, section 3).

Three of the paper's five techniques are numbers, and they are here; the third is
``ScoreModel(net, sde, prediction="epsilon")`` with a network that ignores the time, so that
:math:`s = -f(x)/\sigma`, and the fifth is :class:`sdescore.EMA`.

- Technique 1: :math:`\sigma_1` is the largest distance between two data
  (:func:`largest_distance`).
- Technique 2: the ratio γ makes the typical sets of neighbouring levels overlap
  (:func:`ratio_for_overlap`).
- Technique 4: the Langevin step brings each level's variance as near to its own as it can
  (:func:`langevin_step`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdescore.checks import finite, is_count, named, require, require_state
from sdescore.errors import ShapeError
from sdescore.shapes import flat

__all__ = [
    "langevin_step",
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

    With :math:`r_i` the distance of a datum from the mean, :math:`\|x_i - x_j\| \le r_i + r_j`:
    pairs are compared block by block, the farthest data first, and those that cannot exceed
    the best so far are skipped. The result is exact (to float32's rounding in choosing between
    near ties) up to ``limit`` data, and beyond wherever the skipped could not matter. Otherwise
    it is the largest among the ``limit`` farthest data, a lower bound that is never below
    half the truth, for some datum lies at least :math:`\max_i r_i` from the farthest one.

    At worst, for data near a sphere, nothing is skipped, which is n² d operations; memory is two
    copies of the data. On one core 60,000 images of 784 pixels take 6 s if they are digits, 36 s
    if they are Gaussian noise.

    Parameters
    ----------
    data : Tensor
        ``(n, *E)``, n >= 2, floating point.
    block : int
        Rows compared at a time; changes no result.
    limit : int
        How many data are compared in all pairs, >= 1.

    Raises
    ------
    ShapeError
        Fewer than two samples, or not floating point.
    ScheduleError
        NaN or infinity in the data, or ``block`` or ``limit`` below 1.
    """
    require_state(data, "data")
    if len(data) < 2:
        raise ShapeError(f"expected at least two samples, got data of shape {tuple(data.shape)}")
    for name, value in (("block", block), ("limit", limit)):
        require(is_count(value) and value >= 1, f"{name} >= 1", f"{name}={value!r}")
    require(bool(data.isfinite().all()), "finite data", "NaN or infinity in it")
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
    # The blocks are compared in float32 by a matrix product; the pair found is not.
    return float((rows[pair[0]].double() - rows[pair[1]].double()).norm())


def shell_overlap(ratio: float, dim: int) -> float:
    r"""How much of a level lies in the typical set of the level above; technique 2.

    The radius of :math:`\mathcal N(0, \sigma^2 I)` in D dimensions tends to
    :math:`\mathcal N(\sqrt D \sigma, \sigma^2/2)` as D grows. The share of σ_i's radii within three
    standard deviations of the radius at :math:`\sigma_{i-1} = \gamma \sigma_i` is then

    .. math:: \Phi\bigl(\sqrt{2D}(\gamma - 1) + 3\gamma\bigr)
              - \Phi\bigl(\sqrt{2D}(\gamma - 1) - 3\gamma\bigr) .

    It is 0.9973 at γ = 1. Beyond D = 4 it rises, then falls to 0; up to D = 4 it never falls,
    for the interval of a Gaussian radius then reaches below zero.
    """
    gap, width = math.sqrt(2 * dim) * (ratio - 1), 3 * ratio
    return 0.5 * (math.erfc((gap - width) / math.sqrt(2)) - math.erfc((gap + width) / math.sqrt(2)))


def ratio_for_overlap(overlap: float, dim: int) -> float:
    r"""The ratio γ > 1 whose :func:`shell_overlap` is ``overlap``; there is one.

    The derivative in γ has the sign of :math:`(a + 3) e^{-6 a \gamma (\gamma - 1)} - (a - 3)` with
    :math:`a = \sqrt{2D}`, which changes once if a > 3.

    Raises
    ------
    ScheduleError
        ``dim`` below 5, or ``overlap`` outside (0, 0.997).
    """
    require_overlap(overlap)
    require(
        is_count(dim) and dim >= 5,
        "at least 5 elements an event, for the radius is only then near enough to Gaussian that "
        "an overlap gives a ratio; pass levels= or ratio=",
        f"{dim!r}",
    )
    low, high = 0.0, 1.0  # of γ − 1
    while shell_overlap(1 + high, dim) > overlap:
        low, high = high, 2 * high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if shell_overlap(1 + middle, dim) > overlap else (low, middle)
    return 1 + low


def require_overlap(overlap: float) -> None:
    """Refuse an overlap that no ratio above 1 has.

    Raises
    ------
    ScheduleError
        Outside (0, 0.997).
    """
    usable = finite(overlap) and 0 < overlap < 0.997
    require(usable, "overlap in (0, 0.997)", named("overlap", overlap))


def levels_for_ratio(sigma_max: float, sigma_min: float, ratio: float) -> int:
    """The fewest levels from σ_1 down to σ_L < σ_1 whose ratio is at most ``ratio``."""
    steps = math.log(sigma_max / sigma_min) / math.log(ratio)
    return 1 + math.ceil(steps * (1 - 1e-12))  # a whole number of steps stays whole


def variance_ratio(step: float, ratio: float, steps: int) -> float:
    r"""A level's variance after its Langevin steps, over σ_i²; technique 4.

    Where p is a Gaussian of variance σ_i² about one datum, the T steps
    :math:`x + r \sigma_i^2 s + \sqrt{2 r}\, \sigma_i z` take the variance
    :math:`\gamma^2 \sigma_i^2` to σ_i² times

    .. math:: (1 - r)^{2T} \Bigl(\gamma^2 - \frac{2r}{1 - (1 - r)^2}\Bigr)
              + \frac{2r}{1 - (1 - r)^2} .

    It exceeds 1 for every r in (0, 2): it starts above, and so does the variance
    :math:`2/(2 - r)` that the steps tend to.
    """
    kept, limit = (1 - step) ** (2 * steps), 2 / (2 - step)
    return kept * (ratio**2 - limit) + limit


def langevin_step(ratio: float, steps: int) -> float:
    r"""The r = τ/σ_i² that minimises :func:`variance_ratio`; in (0, 1), and there is one.

    With q = 1 − r the derivative in q vanishes where

    .. math:: \gamma^2 = \frac{2}{1 + q} + \frac{q^{1 - 2T} - q}{T (1 + q)^2} ,

    whose right side falls from ∞ at q = 0 to 1 at q = 1. Negative q is worse than −q.

    Raises
    ------
    ScheduleError
        ``ratio`` not above 1, or ``steps`` below 1.
    """
    require(finite(ratio) and ratio > 1, "a ratio of levels > 1", f"{ratio!r}")
    require(is_count(steps) and steps >= 1, "steps >= 1", f"{steps!r}")
    low, high = 0.0, 1.0  # of r
    while low < (r := 0.5 * (low + high)) < high:
        q, kept = 1 - r, (1 - r) ** (2 * steps - 1)
        # The equation times q^(2T−1): it neither overflows nor cancels where T is large.
        rising = steps * kept * ((1 + q) ** 2 * ratio**2 - 2 * (1 + q)) > 1 - kept * q
        low, high = (r, high) if rising else (low, r)
    return r
