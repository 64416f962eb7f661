r"""The noise floor of a metric: how far apart two sets of real samples are.

Every distance between two finite sample sets is positive, even when both come from one
distribution, and its size depends on *both* sample sizes: E[D²] = c (1/N + 1/M) for
:func:`~sdescore.metrics.energy_distance` and :func:`~sdescore.metrics.mmd`. A distance is
therefore divided by the same metric's distance between two sets of real samples, **at the same
two sizes**.

For a finite reference of R samples and G generated ones take n = min(G, R // 2), and for each
repeat split the reference at random into A of size n and its rest B, R − n samples. Then

* floor = mean of metric(A, B)
* value = mean of metric(n of the generated, the same B)
* ratio = value / floor

If the generated samples are independent draws from the distribution of the reference, value and
floor have equal means, and B's luck cancels in the ratio. R // 2 is where 1/n + 1/(R − n) is
smallest: a larger n would shrink B, and with it the power to see a difference.

At a ratio of 1 samples cannot be told from real at these sizes. Clearly below 1 is a warning:
copies of n random reference samples (memorised training data) share some with B: E[D²] falls to
c (1/n + 1/(R − n) − 2/R), the ratio to 0.7 at n = R/2. The repeats overlap in their samples, so
``std / sqrt(repeats)`` understates the error that comes from the reference being one finite draw.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.metrics.samples import flatten, shuffled

__all__ = ["NoiseFloor", "RelativeDistance", "noise_floor", "relative_to_floor"]

Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The mean of a metric between disjoint random parts of one sample set.

    Attributes
    ----------
    mean, std : float
        Mean, and standard deviation of a single repeat, in the units of the metric.
    repeats, seed : int
        Number of random splits, and their seed.
    size : tuple[int, int]
        Sizes of the two parts.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> real = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> floor = ss.metrics.noise_floor(ss.metrics.energy_distance, real, size=100)
    >>> far = ss.metrics.energy_distance(real[:100] + 1.0, real[100:])
    >>> far > floor.mean + 10 * floor.std
    True
    """

    mean: float
    std: float
    repeats: int
    size: tuple[int, int]
    seed: int


@dataclass(frozen=True, kw_only=True)
class RelativeDistance:
    """A distance to a reference, relative to the distance between two sets of real samples.

    Attributes
    ----------
    ratio : float
        ``value / floor.mean``.
    value, std : float
        Mean over the splits, and standard deviation of a single split, of the distance.
    floor : NoiseFloor
        The floor, at the same sizes and over the same splits.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> real = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> new = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    >>> found = ss.metrics.relative_to_floor(ss.metrics.energy_distance, new, real)
    >>> found.ratio == found.value / found.floor.mean, found.ratio < 3
    (True, True)
    """

    ratio: float
    value: float
    std: float
    floor: NoiseFloor


def noise_floor(
    metric: Metric,
    reference: Tensor,
    size: int | tuple[int, int] | None = None,
    repeats: int = 10,
    seed: int = 0,
) -> NoiseFloor:
    """Mean and standard deviation of a metric between disjoint parts of a reference.

    Parameters
    ----------
    metric : callable
        ``metric(x, y) -> float``; options by :func:`functools.partial`. For
        :func:`~sdescore.metrics.mmd`, fix the bandwidth.
    reference : Tensor
        Real samples ``(R, *E)``, floating point.
    size : int or (int, int), optional
        ``(n, m)``: two disjoint parts of these sizes. ``n``: n samples against the R − n
        others. Default: n = R // 2.
    repeats : int
        Number of random splits, at least 2.
    seed : int
        Seed of the splits.

    Raises
    ------
    ShapeError, ParameterError
        The reference cannot be split into parts of these sizes, or has NaN or infinite values;
        fewer than two repeats, or no whole seed.

    Examples
    --------
    >>> import torch
    >>> from sdescore.metrics import energy_distance
    >>> reference = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> noise_floor(energy_distance, reference, size=50, repeats=4).size
    (50, 150)
    """
    flatten(reference, "reference")
    repeats, seed = checks.count("repeats", repeats, at_least=2), checks.seed(seed)
    sizes = _sizes(size, len(reference))
    values = [metric(a, b) for a, b in _splits(reference, sizes, repeats, seed)]
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return NoiseFloor(mean=mean, std=std, repeats=repeats, size=sizes, seed=seed)


def relative_to_floor(
    metric: Metric, x: Tensor, reference: Tensor, floor: NoiseFloor | None = None
) -> RelativeDistance:
    """Distance of samples to a reference, divided by the noise floor, at equal sizes.

    :mod:`sdescore.metrics.floor` describes the protocol.

    Parameters
    ----------
    metric, reference
        As in :func:`noise_floor`.
    x : Tensor
        Samples ``(G, *E)`` to judge. Where the floor's first size is smaller than G, each
        split uses a fresh random subset of that size.
    floor : NoiseFloor, optional
        A :func:`noise_floor` of the same metric and reference; it sets the sizes, the
        number of splits and their seed, and saves time when many x meet one reference.
        Default: ``noise_floor(metric, reference, size=min(G, R // 2))``.

    Raises
    ------
    ShapeError, ParameterError
        x has fewer samples than the floor's first size, or does not fit the reference; NaN or
        infinite values, or a floor of zero (a reference without spread).

    Examples
    --------
    >>> import torch
    >>> from sdescore.metrics import energy_distance
    >>> real = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> far = relative_to_floor(energy_distance, real[:100] + 3.0, real)
    >>> far.floor.size, far.ratio > 10.0
    ((100, 300), True)
    """
    flatten(x, "x")
    flatten(reference, "reference")
    if floor is None:
        floor = noise_floor(metric, reference, size=min(len(x), len(reference) // 2))
    n = floor.size[0]
    got = f"{len(x)}; use noise_floor(metric, reference, size={len(x)})"
    checks.that(len(x) >= n, f"at least the floor's {n} samples in x", got, ShapeError)
    got = f"{floor.mean}; the reference has no spread under this metric (or it may be negative)"
    checks.that(0.0 < floor.mean < math.inf, "a positive noise floor", got)
    # Its own stream: the splits must be those of the floor whatever len(x) is.
    generator = torch.Generator("cpu").manual_seed(floor.seed)
    values = [
        metric(x[shuffled(len(x), generator, x.device)[:n]], rest)
        for _, rest in _splits(reference, floor.size, floor.repeats, floor.seed)
    ]
    value, std = statistics.fmean(values), statistics.stdev(values)
    return RelativeDistance(ratio=value / floor.mean, value=value, std=std, floor=floor)


def _sizes(size: int | tuple[int, int] | None, total: int) -> tuple[int, int]:
    size = total // 2 if size is None else size
    rest = total - size if checks.is_count(size) else 0
    parts = size if isinstance(size, tuple) else (size, rest)
    whole = len(parts) == 2 and all(map(checks.is_count, parts))
    if not whole or min(parts) < 1 or sum(parts) > total:
        checks.refuse(
            "a size n or (n, m) that makes two disjoint parts of at least one sample each out of "
            f"{total}",
            f"{size!r:.100}; use a smaller size or a larger reference",
            ShapeError,
        )
    return int(parts[0]), int(parts[1])


def _splits(
    reference: Tensor, sizes: tuple[int, int], repeats: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random disjoint parts of the reference; the same for equal arguments."""
    generator = torch.Generator("cpu").manual_seed(seed)
    n, m = sizes
    for _ in range(repeats):
        order = shuffled(len(reference), generator, reference.device)
        yield reference[order[:n]], reference[order[n : n + m]]
