r"""The chains that networks were trained on, as SDEs: a DDPM's β table, an NCSN's ladder.

Both are exact at their levels and smooth and monotone between, so that every predictor,
grid and solver runs on them unchanged. ``level(t)`` is the network's integer index at a
level and interpolates it linearly between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checks import finite, is_count, named, require, require_state
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.grids.levels import LevelGrid
from sdescore.sde.interpolation import MonotoneCubic
from sdescore.sde.ladder import (
    MAX_LEVELS,
    largest_distance,
    levels_for_ratio,
    ratio_for_overlap,
    require_overlap,
)
from sdescore.sde.linear import LinearSDE
from sdescore.sde.vp import IntegratedBetaSDE
from sdescore.typing import Time

__all__ = ["DiscreteVESDE", "DiscreteVPSDE"]


def as_floats(table: Sequence[float] | Tensor) -> tuple[float, ...]:
    """A table as a tuple of Python floats."""
    try:
        flat = torch.as_tensor(table, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ScheduleError(f"expected a table of numbers; got {table!r}") from None
    require(flat.ndim == 1, "a one-dimensional table", f"shape {tuple(flat.shape)}")
    return tuple(flat.tolist())


def at_levels(level: Tensor, t: Time, count: int) -> Tensor:
    """``level``, an integer wherever ``t`` is a level's time to the precision of its own dtype.

    ``(i/N)·N`` is not always ``i`` in floating point, and a network that takes an index must
    not be given i − 10⁻¹³.
    """
    dtype = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float64
    nearest = level.round()
    return torch.where((level - nearest).abs() <= count * torch.finfo(dtype).eps, nearest, level)


@dataclass(frozen=True, kw_only=True)
class DiscreteVPSDE(IntegratedBetaSDE):
    r"""A DDPM's own table :math:`\beta_1 \dots \beta_N` (Ho et al. 2020, arXiv:2006.11239, eq. 4):

    .. math:: \bar\alpha_i = \prod_{j \le i} (1 - \beta_j), \qquad
       \alpha_{t_i} = \sqrt{\bar\alpha_i}, \qquad \sigma_{t_i}^2 = 1 - \bar\alpha_i, \qquad
       t_i = i/N .

    Between levels :math:`B = -\log\bar\alpha` is interpolated by a monotone cubic. The
    chain's index (0 … N−1, what the network was given) is :meth:`level`.

    Parameters
    ----------
    betas : sequence of float
        N >= 1 values in (0, 1), least noise first; a tensor is accepted and kept as floats.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", as_floats(self.betas))
        require(
            len(self.betas) >= 1 and all(0 < b < 1 for b in self.betas),
            "at least one beta, each in (0, 1)",
            f"{len(self.betas)} values"
            + (f" in [{min(self.betas):g}, {max(self.betas):g}]" if self.betas else ""),
        )

    @classmethod
    def linear(
        cls, levels: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscreteVPSDE:
        """DDPM's linear table (Ho et al. 2020, section 4)."""
        require(
            isinstance(levels, int) and levels >= 1, "an integer levels >= 1", f"levels={levels}"
        )
        require(
            finite(beta_start, beta_end),
            "beta_start and beta_end as finite numbers",
            f"beta_start={beta_start!r}, beta_end={beta_end!r}",
        )
        betas = torch.linspace(beta_start, beta_end, levels, dtype=torch.float64)
        return cls(betas=as_floats(betas))

    @property
    def T(self) -> float:
        return 1.0

    @property
    def t_min(self) -> float:
        return 1.0 / self.levels

    @property
    def levels(self) -> int:
        """N, the number of levels."""
        return len(self.betas)

    @property
    def default_grid(self) -> LevelGrid:
        """The level table."""
        return LevelGrid()

    def level_times(self) -> Tensor:
        """``(N,)`` float64: the time of level 0, 1, …, rising from 1/N to 1."""
        return self._interpolant.knots[1:].clone()

    def level(self, t: Time) -> Tensor:
        """The chain's index at ``t``, ``N t − 1``: 0 … N−1 at the levels, −1 at t = 0."""
        return at_levels(checks.time(t, self.T) * self.levels - 1, t, self.levels)

    @cached_property
    def _interpolant(self) -> MonotoneCubic:
        B = [0.0]
        for beta in self.betas:
            B.append(B[-1] - math.log1p(-beta))
        return MonotoneCubic(B)

    def _beta(self, t: Tensor) -> Tensor:
        return self._interpolant.derivative(t)

    def _integrated_beta(self, t: Tensor) -> Tensor:
        return self._interpolant(t)

    def _integrated_beta_between(self, s: Tensor, t: Tensor) -> Tensor:
        return self._interpolant.between(s, t)


@dataclass(frozen=True, kw_only=True)
class DiscreteVESDE(LinearSDE):
    r"""An NCSN's own ladder :math:`\sigma_1 > \dots > \sigma_L`
    (Song & Ermon 2019, arXiv:1907.05600, section 4.1):

    .. math:: \alpha_t = 1, \qquad \sigma_{t_i} = \sigma_i, \qquad
       t_i = \frac{L - i}{L - 1}, \quad i = 1 \dots L .

    Between levels :math:`\log\sigma` is interpolated by a monotone cubic, so a geometric
    ladder is :class:`sdescore.VESDE` to rounding. The ladder's index (0 for the largest σ,
    what an NCSN was given) is :meth:`level`.

    Parameters
    ----------
    sigmas : sequence of float
        L >= 2 positive values, strictly decreasing, in the units of the data.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", as_floats(self.sigmas))
        pairs = zip(self.sigmas, self.sigmas[1:], strict=False)
        require(
            len(self.sigmas) >= 2
            and finite(*self.sigmas)
            and self.sigmas[-1] > 0
            and all(high > low for high, low in pairs),
            "at least two positive sigmas, strictly decreasing (largest noise first)",
            f"{len(self.sigmas)} values starting with {self.sigmas[:3]}",
        )

    @classmethod
    def geometric(cls, *, sigma_max: float, sigma_min: float, levels: int) -> DiscreteVESDE:
        """The ladder with constant ratio σ_i/σ_{i+1} > 1 (Song & Ermon 2019, section 4.1)."""
        require(
            is_count(levels)
            and levels >= 2
            and finite(sigma_min, sigma_max)
            and 0 < sigma_min < sigma_max,
            "an integer levels >= 2 and 0 < sigma_min < sigma_max",
            f"levels={levels!r}, {named('sigma_min', sigma_min)}, {named('sigma_max', sigma_max)}",
        )
        ends = math.log(sigma_max), math.log(sigma_min)
        return cls(sigmas=as_floats(torch.linspace(*ends, levels, dtype=torch.float64).exp()))

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
        between any two at the first level. The ratio is the largest, for whole levels, at which
        ``overlap`` of a level's radii lie in the typical set of the level above. That takes the
        radius of Gaussian noise for Gaussian itself, as it is in many dimensions D: at the paper's
        0.5 the true overlap is 0.43 for D = 8, 0.476 for 64 and 0.493 for 784. Below D = 5 there
        is no such ratio: give the levels.

        Parameters
        ----------
        data : Tensor
            ``(n, *E)``, n >= 2; see :func:`sdescore.sde.ladder.largest_distance`, exact up to
            60,000 data.
        sigma_min : float
            σ_L, small beside the data's own scale; the paper's 0.01 belongs to pixels in [0, 1].
        levels : int, optional
            L in [2, 100,000], in place of technique 2.
        ratio : float, optional
            The largest σ_i/σ_{i+1}, > 1, in place of technique 2; so near 1 that it takes more than
            100,000 levels it is refused.
        overlap : float
            In (0, 0.997), the share that neighbouring levels have in common.

        Raises
        ------
        ShapeError
            Not ``(n, *E)`` in floating point with n >= 2.
        ScheduleError
            A parameter out of range, more than 100,000 levels, events of fewer than five elements
            without ``levels`` or ``ratio``, or a largest distance that is not finite or not above
            ``sigma_min``.
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
        require_state(data, "data")
        require_overlap(overlap)
        if levels is not None and ratio is not None:
            raise IncompatibleError("expected levels= or ratio=, got both; leave one of them out")
        if levels is None:
            dim = math.prod(data.shape[1:])
            bound = ratio_for_overlap(overlap, dim) if ratio is None else ratio
            require(finite(bound) and bound > 1, "ratio > 1", named("ratio", ratio))
        sigma_max = largest_distance(data)
        require(
            finite(sigma_min, sigma_max) and 0 < sigma_min < sigma_max,
            "0 < sigma_min < the largest distance between two data",
            f"{named('sigma_min', sigma_min)}, largest distance {sigma_max:g}",
        )
        if levels is None:
            levels = levels_for_ratio(sigma_max, sigma_min, bound)
        require(
            not is_count(levels) or levels <= MAX_LEVELS,
            f"a ladder of at most {MAX_LEVELS:,} levels",
            f"{levels!r}: take a larger ratio, a smaller overlap or a larger sigma_min",
        )
        return cls.geometric(sigma_max=sigma_max, sigma_min=sigma_min, levels=levels)

    @property
    def T(self) -> float:
        return 1.0

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return len(self.sigmas)

    @property
    def default_grid(self) -> LevelGrid:
        """The level table."""
        return LevelGrid()

    def level_times(self) -> Tensor:
        """``(L,)`` float64: the time of level 0, 1, …, falling from 1 to 0."""
        return self._interpolant.knots.flip(0)

    def level(self, t: Time) -> Tensor:
        """The ladder's index at ``t``, ``(L − 1)(1 − t)``: 0 at σ_1, L−1 at σ_L."""
        level = (self.levels - 1) * (1 - checks.time(t, self.T))
        return at_levels(level, t, self.levels)

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

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = torch.expm1(2 * self._interpolant.between(s, t))
        return torch.ones_like(growth), self._marginal(s)[1].square() * growth
