r"""The chains that networks were trained on, as SDEs: a DDPM's β table, an NCSN's ladder.

Both are exact at their levels, and smooth and monotone between them, so that every predictor,
grid and solver runs on them unchanged. ``level(t)`` is linear in t between levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.grids.levels import LevelGrid
from sdescore.sde.interpolation import MonotoneCubic
from sdescore.sde.ladder import MAX_LEVELS, largest_distance, levels_for_ratio, ratio_for_overlap
from sdescore.sde.linear import LinearSDE
from sdescore.sde.ve import sigma_range
from sdescore.sde.vp import IntegratedBetaSDE
from sdescore.typing import Time

__all__ = ["DiscreteVESDE", "DiscreteVPSDE"]


def snap_to_level(level: Tensor, t: Time, count: int) -> Tensor:
    """``level``, an integer wherever ``t`` is a level's time to the precision of its own dtype."""
    # (i/N)·N is not always i, and a network that takes an index must not get i − 10⁻¹³.
    dtype = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float64
    nearest = level.round()
    return torch.where((level - nearest).abs() <= count * torch.finfo(dtype).eps, nearest, level)


@dataclass(frozen=True, kw_only=True)
class DiscreteVPSDE(IntegratedBetaSDE):
    r"""A DDPM's own table :math:`\beta_1 \dots \beta_N` (Ho et al. 2020, arXiv:2006.11239, eq. 4):

    .. math:: \bar\alpha_i = \prod_{j \le i} (1 - \beta_j), \qquad
       \alpha_{t_i} = \sqrt{\bar\alpha_i}, \qquad \sigma_{t_i}^2 = 1 - \bar\alpha_i, \qquad
       t_i = i/N .

    Between levels :math:`B = -\log\bar\alpha` is interpolated by a monotone cubic. :meth:`level` is
    the index 0 … N−1 that the network was given.

    The last :math:`\beta_N` may be 1: then :math:`\alpha_T = 0` and x_T is noise alone
    (:func:`sdescore.sde.rescale_zero_terminal_snr`). A score or ε does not say x̂₀ there. So
    sampling from T needs a network that predicts v, x₀ or F, and a predictor that uses x̂₀:
    ``DDIM``, ``Ancestral`` or ``ExponentialAdams`` with ``output="x0"``.

    Parameters
    ----------
    betas : sequence of float
        N >= 1 values in (0, 1), the last one in (0, 1], or ``ScheduleError``; least noise first. A
        tensor is accepted and stored as floats.

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.DiscreteVPSDE(betas=(0.1, 0.2, 0.3))
    >>> alpha, _ = sde.marginal(sde.T)
    >>> round((alpha**2).item(), 6)  # (1 − 0.1)(1 − 0.2)(1 − 0.3)
    0.504
    """

    betas: tuple[float, ...]

    T = 1.0
    default_grid = LevelGrid()

    def __post_init__(self) -> None:
        betas = checks.numbers("betas", self.betas, error=ScheduleError)
        inside = 0 < min(betas) <= max(betas) <= 1 and 1 not in betas[:-1]
        got = f"{len(betas)} values in [{min(betas):g}, {max(betas):g}]"
        expected = "betas, each in (0, 1), of which the last may be 1"
        checks.that(inside, expected, got, ScheduleError)
        vars(self).update(betas=betas, t_min=1.0 / len(betas))

    @classmethod
    def linear(
        cls, levels: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscreteVPSDE:
        """DDPM's linear table (Ho et al. 2020, section 4): N >= 1 levels, ends in (0, 1)."""
        levels = checks.count("levels", levels, error=ScheduleError)
        first = checks.number("beta_start", beta_start, above=0, below=1, error=ScheduleError)
        last = checks.number("beta_end", beta_end, above=0, below=1, error=ScheduleError)
        betas = torch.linspace(first, last, levels, dtype=torch.float64, device="cpu")
        return cls(betas=tuple(betas.tolist()))

    @property
    def levels(self) -> int:
        """N, the number of levels."""
        return len(self.betas)

    def level_times(self) -> Tensor:
        """``(N,)`` float64: the time of level 0, 1, …, rising from 1/N to 1."""
        return self._interpolant.knots[1:].clone()

    def level(self, t: Time) -> Tensor:
        """The chain's index at ``t``, ``N t − 1``: 0 … N−1 at the levels, −1 at t = 0."""
        return snap_to_level(checks.time(t, self.T) * self.levels - 1, t, self.levels)

    @cached_property
    def _interpolant(self) -> MonotoneCubic:
        B = [0.0]
        # Where the last β is 1, the cubic goes on as before, and _last_cell adds the rest.
        finite = self.betas[:-1] if self._ends_in_noise else self.betas
        for beta in (*finite, *(finite[-1:] or (0.5,)) * self._ends_in_noise):
            B.append(B[-1] - math.log1p(-beta))
        return MonotoneCubic(B)

    @property
    def _ends_in_noise(self) -> bool:
        return self.betas[-1] == 1

    def _last_cell(self, t: Tensor) -> Tensor:
        """How far ``t`` is into the last cell, 0 to 1; 0 everywhere unless α_T = 0.

        There α falls like ``1 − u²`` times what the cubic says, C¹ at u = 0 and 0 at u = 1.
        """
        u = (t * self.levels - (self.levels - 1)).clamp(min=0.0)
        return u if self._ends_in_noise else torch.zeros_like(u)

    def _beta(self, t: Tensor) -> Tensor:
        u = self._last_cell(t)
        return self._interpolant.derivative(t) + 4 * self.levels * u / ((1 - u) * (1 + u))

    def _integrated_beta(self, t: Tensor) -> Tensor:
        return self._interpolant(t) - 2 * torch.log1p(-self._last_cell(t).square())

    def _integrated_beta_between(self, s: Tensor, t: Tensor) -> Tensor:
        u, v = self._last_cell(s), self._last_cell(t)
        share = (v - u) * (v + u) / ((1 - u) * (1 + u))
        return self._interpolant.between(s, t) - 2 * torch.log1p(-torch.where(v > u, share, 0.0))

    def _time_at_integrated_beta(self, B: Tensor) -> Tensor:
        return self._interpolant.inverse(B)

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        if self._ends_in_noise:  # the last cell is not the cubic's
            return LinearSDE._time_at_log_snr(self, log_snr)
        return super()._time_at_log_snr(log_snr)


@dataclass(frozen=True, kw_only=True)
class DiscreteVESDE(LinearSDE):
    r"""An NCSN's own ladder :math:`\sigma_1 > \dots > \sigma_L`
    (Song & Ermon 2019, arXiv:1907.05600, section 4.1):

    .. math:: \alpha_t = 1, \qquad \sigma_{t_i} = \sigma_i, \qquad
       t_i = \frac{L - i}{L - 1}, \quad i = 1 \dots L .

    Between levels :math:`\log\sigma` is interpolated by a monotone cubic, so a geometric
    ladder is :class:`sdescore.VESDE` to rounding. :meth:`level` is the index that an NCSN was
    given, 0 for the largest σ.

    Parameters
    ----------
    sigmas : sequence of float
        L >= 2 values between 1e-15 and 1e15, strictly decreasing, or ``ScheduleError``; in the
        units of the data. A tensor is accepted and stored as floats.

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.DiscreteVESDE(sigmas=(10.0, 1.0, 0.1))
    >>> round(sde.marginal(sde.T)[1].item(), 6)
    10.0
    """

    sigmas: tuple[float, ...]

    T = 1.0
    default_grid = LevelGrid()

    def __post_init__(self) -> None:
        sigmas = checks.numbers("sigmas", self.sigmas, at_least=2, error=ScheduleError)
        falling = all(high > low for high, low in pairwise((1.1e15, *sigmas, 0.9e-15)))
        expected = "strictly decreasing sigmas (largest noise first) between 1e-15 and 1e15"
        got = f"{len(sigmas)} values starting with {sigmas[:3]}"
        checks.that(falling, expected, got, ScheduleError)
        vars(self).update(sigmas=sigmas)

    @classmethod
    def geometric(cls, *, sigma_max: float, sigma_min: float, levels: int) -> DiscreteVESDE:
        """The ladder of L >= 2 levels with one ratio σ_i/σ_{i+1} (Song & Ermon 2019, section 4.1).

        ``1e-15 <= sigma_min < sigma_max <= 1e15``, or ``ScheduleError``.
        """
        ends = sigma_range(sigma_min, sigma_max)
        levels = checks.count("levels", levels, at_least=2, error=ScheduleError)
        first, last = ends["sigma_max"], ends["sigma_min"]
        ends_of_logs = math.log(first), math.log(last)
        logs = torch.linspace(*ends_of_logs, levels, dtype=torch.float64, device="cpu")
        return cls(sigmas=(first, *map(math.exp, logs[1:-1].tolist()), last))

    @classmethod
    def from_data(
        cls,
        data: Tensor,
        *,
        sigma_min: float = 0.01,
        levels: int | None = None,
        ratio: float | None = None,
        overlap: float = 0.5,
    ) -> DiscreteVESDE:
        r"""The geometric ladder of Song & Ermon 2020, arXiv:2006.09011, techniques 1 and 2.

        :math:`\sigma_1` is the largest distance between two data, so that a sample can move
        between any two at the first level. The ratio is the largest at which a share ``overlap`` of
        a level's radii lies in the typical set of the level above, reduced to a whole number of
        levels. The paper assumes that the radius of Gaussian noise is Gaussian itself: at its 0.5
        the true overlap is 0.43 in D = 8 dimensions, 0.476 in 64 and 0.493 in 784. Below D = 5
        there is no such ratio: pass ``levels``.

        Parameters
        ----------
        data : Tensor
            ``(n, *E)``, n >= 2; :func:`sdescore.sde.ladder.largest_distance` is exact up to 60,000.
        sigma_min : float
            σ_L, small beside the data's own scale; the paper's 0.01 belongs to pixels in [0, 1].
        levels : int, optional
            L in [2, 100,000], in place of technique 2.
        ratio : float, optional
            The largest σ_i/σ_{i+1}, > 1, in place of technique 2.
        overlap : float
            In (0, 0.997), the share that neighbouring levels have in common.

        Raises
        ------
        ShapeError, ParameterError
            The data are not ``(n, *E)`` in floating point with n >= 2, or not finite.
        ScheduleError
            A parameter is out of range, the ladder needs more than 100,000 levels, the largest
            distance is not above ``sigma_min``, or D < 5 without ``levels`` or ``ratio``.
        IncompatibleError
            Both ``levels`` and ``ratio``.

        Examples
        --------
        >>> import torch, sdescore as ss
        >>> images = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> sde = ss.DiscreteVESDE.from_data(images)
        >>> sde.levels, round(sde.sigmas[0], 1), round(sde.sigmas[0] / sde.sigmas[1], 3)
        (92, 12.3, 1.081)
        """
        checks.state(data, "data")
        overlap = checks.number("overlap", overlap, above=0, below=0.997, error=ScheduleError)
        if levels is not None and ratio is not None:
            checks.refuse("levels= or ratio=", "both; leave one of them out", IncompatibleError)
        if ratio is not None:
            ratio = checks.number("ratio", ratio, above=1, error=ScheduleError)
        elif levels is None:
            ratio = ratio_for_overlap(overlap, math.prod(data.shape[1:]))
        sigma_max = largest_distance(data)
        sigma_min = checks.number("sigma_min", sigma_min, above=0, error=ScheduleError)
        expected = "sigma_min below the largest distance between two data"
        got = f"sigma_min={sigma_min:g}, largest distance {sigma_max:g}"
        checks.that(sigma_min < sigma_max, expected, got, ScheduleError)
        if ratio is not None:
            levels = levels_for_ratio(sigma_max, sigma_min, ratio)
        levels = checks.count("levels", levels, at_least=2, error=ScheduleError)
        expected = f"a ladder of at most {MAX_LEVELS:,} levels"
        got = f"{levels:,}: take a larger ratio, a smaller overlap or a larger sigma_min"
        checks.that(levels <= MAX_LEVELS, expected, got, ScheduleError)
        return cls.geometric(sigma_max=sigma_max, sigma_min=sigma_min, levels=levels)

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return len(self.sigmas)

    def level_times(self) -> Tensor:
        """``(L,)`` float64: the time of level 0, 1, …, falling from 1 to 0."""
        return self._interpolant.knots.flip(0)

    def level(self, t: Time) -> Tensor:
        """The ladder's index at ``t``, ``(L − 1)(1 − t)``: 0 at σ_1, L−1 at σ_L."""
        level = (self.levels - 1) * (1 - checks.time(t, self.T))
        return snap_to_level(level, t, self.levels)

    @cached_property
    def _interpolant(self) -> MonotoneCubic:
        return MonotoneCubic([math.log(s) for s in reversed(self.sigmas)])

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.exp(self._interpolant(t))

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma_t = self._marginal(t)[1]
        return torch.zeros_like(t), 2 * sigma_t.square() * self._interpolant.derivative(t)

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2 * self._interpolant(t)

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return self._interpolant.inverse(-0.5 * log_snr)

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = torch.expm1(2 * self._interpolant.between(s, t))
        return torch.ones_like(growth), self._marginal(s)[1].square() * growth
