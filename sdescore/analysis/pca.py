r"""Variances of data along their principal axes: of all data, and of neighbourhoods.

The data are read in chunks, a few times, in float64; they are never copied whole. Up to d = 4096
the covariance is formed and decomposed exactly. Beyond, the r leading axes come from a randomised
method (Halko, Martinsson & Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.3): the covariance is
multiplied twice with 2 r random vectors, and a third product gives the variances.
The other variances are assumed to fall as a power of their index,

.. math:: \Lambda_i = \Lambda_r\, (i / r)^{-p}, \qquad i = r + 1, \dots, d .

The power p is the one that makes all variances sum to the total, which is known exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.score.interface import states_of
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import flat
from sdescore.typing import Score
from sdescore.wrappers import sde_of

__all__ = ["local_spectra"]

EXACT = 4096  # the largest d whose covariance is decomposed: 128 MiB, half a minute
CHUNK = 1 << 22  # numbers of a chunk (float64, 32 MiB)
STEEPEST = 1e4  # p beyond which the tail has nothing left
SEARCHED = 8192  # data among which neighbours are looked for


class PrincipalAxes(NamedTuple):
    """Variances ``(d,)``, largest first, leading axes ``(d, rank)`` and mean ``(d,)``; float64."""

    spectrum: Tensor
    axes: Tensor
    mean: Tensor


def principal_axes(data: Tensor, rank: int, *, seed: int = 0) -> PrincipalAxes:
    r"""The spectrum of the data's covariance, and its leading eigenvectors.

    ``data`` are as in :func:`local_spectra`, and not all equal; ``rank`` is the number of axes, 1
    to d; ``seed`` is that of the randomised method. Exact up to d = 4096, with
    :math:`n d^2 + 9 d^3` operations and four d × d matrices. Beyond,
    :math:`24\, n d\, \mathrm{rank}` operations: the leading variances of images then come out a
    few percent too small, the last of them worst. Both divide by n − 1.

    Examples
    --------
    >>> import torch
    >>> from sdescore.analysis.pca import principal_axes
    >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> principal_axes(x, 1).spectrum.tolist()
    [6.0, 0.6666666666666666]
    """
    x = data_rows(data)
    d = x.shape[1]
    rank, seed = checks.count("rank", rank, at_most=d), checks.seed(seed)
    varies = any(bool((c != x[:1].to(c)).any()) for c in chunks(x))
    checks.that(varies, "data that vary", "equal data")
    mean = mean_of(x)
    spectrum, axes = decomposed(x, mean) if d <= EXACT else randomised(x, mean, rank, seed)
    return PrincipalAxes(spectrum, axes[:, :rank].clone(), mean)


def mean_of(x: Tensor) -> Tensor:
    """The mean of all rows ``(n, d)``, float64 ``(d,)``."""
    mean = torch.zeros(x.shape[1], dtype=torch.float64, device="cpu")
    for chunk in chunks(x):
        mean += chunk.sum(0) / len(x)
    return mean


def local_spectra(
    data: Tensor, *, neighbourhoods: int = 16, neighbours: int | None = None, seed: int = 0
) -> Tensor:
    r"""Variances of data near some of them, along the principal axes of each neighbourhood.

    Parameters
    ----------
    data : Tensor
        ``(n, *E)``, n >= 2, finite, any dtype of real numbers, on any device.
    neighbourhoods : int
        J, 1 to n: the number of centres, which are data drawn without replacement.
    neighbours : int, optional
        k, 2 to n: the size of a neighbourhood, a centre and its nearest data in Euclidean distance.
        By default n / J, at least 2.
    seed : int
        Of the choice of data and of centres. Where there are more than 8192 data, n is 8192, drawn
        at random, so that a neighbourhood is the same share of all data, however many they are.

    Returns
    -------
    Tensor
        ``(J, min(k − 1, d))`` float64, largest first in a row: the eigenvalues of the covariance
        of each neighbourhood about its own mean, with the divisor k − 1, less those that are 0
        because k points span only k − 1 directions.

    Raises
    ------
    ShapeError, ParameterError
        Fewer than two data, or no tensor of real numbers; a number out of range, NaN or infinity.

    Notes
    -----
    k sets the scale: the neighbours fill a ball. Along directions in which the data are wider than
    the ball, the variances are those of the ball. Along narrower directions they are the data's
    own, enlarged by curvature or by a second mode in the ball. With k below about 2 d, the largest
    variances come out too large and the smallest too small. Any d will do.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> line = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    >>> flat = torch.cat([line, torch.zeros(2000, 1)], 1)
    >>> ss.analysis.local_spectra(flat)[:, -1].max().item() < 1e-6  # no width across the line
    True
    """
    x = data_rows(data)
    n = min(len(x), SEARCHED)
    J = checks.count("neighbourhoods", neighbourhoods, at_most=n)
    k = max(n // J, 2) if neighbours is None else neighbours
    k = checks.count("neighbours", k, at_least=2, at_most=n)
    generator = torch.Generator("cpu").manual_seed(checks.seed(seed))
    searched = torch.randperm(len(x), generator=generator, device="cpu")[:n].to(x.device)
    centres = x[searched[:J]].to("cpu", torch.float64)
    # Differences, not products: those lose all digits where the mean is far from 0.
    exactly = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(centres, c, compute_mode=exactly) for c in chunks(x, searched)]
    distances = torch.cat(parts, 1)
    nearest = searched[distances.topk(k, largest=False).indices.to(x.device)]
    return torch.stack([spectrum_of(x[row].to("cpu", torch.float64)) for row in nearest])


def spectrum_of(x: Tensor) -> Tensor:
    """Eigenvalues of the covariance of ``x`` ``(k, d)``, ``(min(k − 1, d),)`` largest first."""
    k, d = x.shape
    away = x - x.mean(0)
    gram = away @ away.T if d > k else away.T @ away
    values: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0.0)
    return values[: min(k - 1, d)] / (k - 1)


def on_states(
    model: LinearSDE | Score, data: Tensor | np.ndarray[Any, Any] | None
) -> tuple[Any, Any]:
    """The SDE of a model or the one passed, and the data as states; bytes become x/127.5 − 1.

    Without a model the data are states already.
    """
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor) and checks.dense("data", data).dtype == torch.uint8:
        data = data.to(torch.float32).div(127.5).sub(1)
    if isinstance(model, SDE):
        return model, data
    return sde_of(model), data if data is None else states_of(model, data)


def data_rows(data: Tensor) -> Tensor:
    """``data`` as ``(n, d)``, n >= 2 and d >= 1; refused where not finite."""
    usable = isinstance(data, Tensor) and checks.dense("data", data).ndim >= 1
    if not usable or len(data) < 2 or data.numel() == 0:
        got = f"{data.dtype} {tuple(data.shape)}" if isinstance(data, Tensor) else type(data)
        raise ShapeError(f"expected at least two data (n, *E) of real numbers, got {got}")
    x = flat(data).detach()
    finite = all(bool(c.isfinite().all()) for c in chunks(x))
    checks.that(finite, "finite data", "NaN or infinity")
    return x


def chunks(x: Tensor, indices: Tensor | None = None) -> Iterator[Tensor]:
    """The rows of ``x`` ``(n, d)``, all or those of ``indices``, in float64 on the CPU."""
    size = max(1, CHUNK // x.shape[1])
    for start in range(0, len(x) if indices is None else len(indices), size):
        part = slice(start, start + size)
        yield (x[part] if indices is None else x[indices[part]]).to("cpu", torch.float64)


def decomposed(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """All variances ``(d,)`` and axes ``(d, d)``."""
    from scipy.linalg.blas import dsyrk

    scatter = np.zeros((x.shape[1], x.shape[1]), order="F")
    for chunk in chunks(x):
        # One triangle takes half the work of a product of matrices. Fortran's order avoids a copy.
        scatter = dsyrk(1.0, (chunk - mean).numpy().T, beta=1.0, c=scatter, lower=1, overwrite_c=1)
    values, axes = torch.linalg.eigh(torch.from_numpy(scatter), UPLO="L")
    return values.flip(0).clamp(min=0.0) / (len(x) - 1), axes.flip(1)


def randomised(x: Tensor, mean: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Variances ``(d,)``, those after ``rank`` extrapolated, and axes ``(d, rank)``."""
    d = x.shape[1]
    width = min(2 * rank, d)  # twice the rank: the last vectors of any width are inaccurate
    generator = torch.Generator("cpu").manual_seed(seed)
    q = torch.randn(d, width, generator=generator, dtype=torch.float64, device="cpu")
    for _ in range(2):
        q = torch.linalg.qr(scattered(x, mean, q)).Q
    values, turn = torch.linalg.eigh(q.T @ scattered(x, mean, q))
    leading = values.flip(0)[:rank].clamp(min=0.0)
    total = sum((chunk - mean).square().sum().item() for chunk in chunks(x))
    rest = tail(leading[-1].item(), rank, d, max(total - leading.sum().item(), 0.0))
    # Where the spectrum is flat, the method's error may put a later variance above an earlier one.
    spectrum = torch.cat([leading, rest]).sort(descending=True).values / (len(x) - 1)
    return spectrum, q @ turn.flip(1)[:, :rank]


def scattered(x: Tensor, mean: Tensor, q: Tensor) -> Tensor:
    """n − 1 times the covariance, times ``q`` ``(d, width)``."""
    product = torch.zeros_like(q)
    for chunk in chunks(x):
        away = chunk - mean
        product += away.T @ (away @ q)
    return product


def tail(last: float, rank: int, d: int, left: float) -> Tensor:
    """``last (i / rank)^−p``, i = rank + 1 … d, with the p >= 0 that makes their sum ``left``."""
    index = torch.arange(rank + 1, d + 1, dtype=torch.float64, device="cpu")
    fall = -index.div(rank).log()
    low, high = 0.0, STEEPEST
    for _ in range(60):
        p = 0.5 * (low + high)
        low, high = (p, high) if last * (p * fall).exp().sum().item() > left else (low, p)
    return left * (low * fall).softmax(0)  # a softmax sums to 1, where p has met its bounds as well
