r"""The law of the training times.

A law takes one of two parts, and the two are not to be confused.

**It is the objective.** The loss is an expectation over :math:`t \sim \pi`, and another π is
another objective, with another optimum wherever the network is not perfect:
:class:`UniformTimes`, :class:`LevelTimes`, :class:`LogSNRTimes`, :class:`LogNormalTimes`.

**It is a proposal** for uniform times, as :class:`sdescore.losses.ImportanceTimes` is: it draws
from another density and hands the loss the weight of each time that makes up for it
(:mod:`sdescore.losses.importance`), so objective and expected gradient are those of
:class:`UniformTimes` and the variance is not. What makes a law a proposal is one method,
``importance_weight(sde, t)``.

Laws in the log-SNR :math:`\lambda = \log(\alpha^2/\sigma^2)` go by
:meth:`sdescore.LinearSDE.time_at_log_snr`, a formula for VE, VP, sub-VP, cosine, EDM and rectified
flow; the interpolated tables of the discrete SDEs, and pairs from
:meth:`sdescore.LinearSDE.from_marginal`, are inverted by bisection.

``stratified=True`` spreads the n times of a batch evenly, :math:`u_i = (u + i/n) \bmod 1` with
one uniform ``u`` for all (Kingma et al. 2021, arXiv:2107.00630, appendix I.1). Each time keeps
its law exactly, so the loss stays unbiased; times of one batch are no longer independent, and
the mean over the batch varies less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdescore.checks import finite, is_count, require
from sdescore.errors import IncompatibleError
from sdescore.losses.given import check_generator
from sdescore.sde.linear import LinearSDE

__all__ = ["LevelTimes", "LogNormalTimes", "LogSNRTimes", "TimeDistribution", "UniformTimes"]


class TimeDistribution(Protocol):
    """Anything that draws training times.

    A proposal also has ``importance_weight(sde, t)``, uniform density over its own, ``(B,)``.
    """

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 times on ``device``, in (0, T]."""


def uniform(
    n: int, stratified: bool, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """``(n,)`` float64, each uniform on [0, 1); drawn where the generator lives, then moved.

    Raises
    ------
    ScheduleError
        ``n`` is no count, or ``stratified`` no bool.
    IncompatibleError
        ``generator`` is none.
    """
    check_generator(generator)
    require(is_count(n), "n as a non-negative integer", f"{n!r}")
    require(isinstance(stratified, bool), "stratified as True or False", f"{stratified!r}")
    source = torch.device(device) if generator is None else generator.device
    count = 1 if stratified else n
    u = torch.rand(count, generator=generator, device=source, dtype=torch.float64).to(device)
    if not stratified:
        return u
    # frac may round up to 1 in the last bit of the sum.
    spread = (u + torch.arange(n, dtype=torch.float64, device=device) / n).frac()
    return spread.clamp(max=1 - torch.finfo(torch.float64).eps)


@dataclass(frozen=True)
class UniformTimes:
    """Uniform on ``[sde.t_min, sde.T]`` (Song et al. 2021, arXiv:2011.13456, eq. 7).

    Parameters
    ----------
    stratified : bool
        Spread the times of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = ss.losses.UniformTimes().sample(ss.VPSDE(), 1000, torch.Generator().manual_seed(0))
    >>> bool((t >= 1e-3).all() and (t <= 1).all())
    True
    """

    stratified: bool = False

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 on ``device``."""
        u = uniform(n, self.stratified, generator, device)
        return sde.t_min + (sde.T - sde.t_min) * u


@dataclass(frozen=True)
class LevelTimes:
    """Uniform over the levels of a discrete SDE, at their exact times.

    NCSN's mean over its ladder (Song & Ermon 2019, eq. 6), DDPM's uniform t (Ho et al. 2020,
    eq. 14).

    Parameters
    ----------
    stratified : bool
        Spread the levels of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.DiscreteVPSDE.linear()
    >>> t = ss.losses.LevelTimes().sample(sde, 4, torch.Generator().manual_seed(0))
    >>> bool((sde.level(t) == sde.level(t).round()).all())
    True
    """

    stratified: bool = False

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 on ``device``.

        Raises
        ------
        IncompatibleError
            The SDE has no levels.
        """
        if not has_levels(sde):
            raise IncompatibleError(
                f"expected a discrete SDE for LevelTimes, got {type(sde).__name__}; use "
                "DiscreteVPSDE or DiscreteVESDE, or UniformTimes()"
            )
        levels: Tensor = sde.level_times().to(device)  # type: ignore[attr-defined]
        u = uniform(n, self.stratified, generator, device)
        return levels[(u * len(levels)).long()]


@dataclass(frozen=True)
class LogSNRTimes:
    r"""Uniform in the log-SNR λ between t_min and T: part of the objective.

    In λ the objective does not depend on the SDE's clock (Kingma et al. 2021, arXiv:2107.00630,
    section 5.1): with ``weighting="sigma2"`` it is the likelihood's,
    :math:`\int \tfrac12 g^2 \|s - \nabla \log p\|^2 \mathrm{d}t`, divided by
    :math:`\lambda_{t_{\min}} - \lambda_T`. On :class:`sdescore.VESDE` it is :class:`UniformTimes`.

    Parameters
    ----------
    stratified : bool
        Spread the times of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, times = ss.EDMSDE(sigma_min=0.01, sigma_max=1.0), ss.losses.LogSNRTimes()
    >>> t = times.sample(sde, 10_000, torch.Generator().manual_seed(0))
    >>> round((t < 0.1).double().mean().item(), 2)  # the middle of log 0.01 … log 1
    0.5
    """

    stratified: bool = False

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 on ``device``.

        Raises
        ------
        ScheduleError
            The log-SNR at t_min or T is infinite.
        """
        highest, lowest = log_snr_range(sde)
        u = uniform(n, self.stratified, generator, device)
        return times_at(sde, highest - (highest - lowest) * u)


@dataclass(frozen=True)
class LogNormalTimes:
    r""":math:`\log(\sigma/\alpha)` normal: part of the objective.

    Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std). The law is conditioned on
    [t_min, T] by its inverse distribution function, so nothing piles up at the ends.

    Parameters
    ----------
    mean, std : float
        Of :math:`\log(\sigma/\alpha)`, std > 0; the paper's −1.2 and 1.2 are meant for data with a
        standard deviation of 0.5.
    stratified : bool
        Spread the times of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = ss.losses.LogNormalTimes().sample(ss.EDMSDE(), 10_000, torch.Generator().manual_seed(0))
    >>> round(t.log().median().item(), 1)  # on this SDE σ/α = t
    -1.2
    """

    mean: float = -1.2
    std: float = 1.2
    stratified: bool = False

    def __post_init__(self) -> None:
        require(
            finite(self.mean, self.std) and self.std > 0,
            "a finite mean and a finite std > 0",
            f"mean={self.mean!r}, std={self.std!r}",
        )
        object.__setattr__(self, "mean", float(self.mean))
        object.__setattr__(self, "std", float(self.std))

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 on ``device``.

        Raises
        ------
        ScheduleError
            The log-SNR at t_min or T is infinite, or so far from the law that float64 holds
            nothing of it there.
        """
        highest, lowest = log_snr_range(sde)
        low, high = ((-0.5 * v - self.mean) / self.std for v in (highest, lowest))
        # Φ rounds to 1 far up, and never far down: a range above the mean is reflected.
        sign = -1.0 if low > 0 else 1.0
        a, b = sorted((sign * low, sign * high))
        below, upto = (normal_cdf(v) for v in (a, b))
        require(
            upto - below > 1e-300,
            f"log(σ/α) in [{-0.5 * highest:g}, {-0.5 * lowest:g}], the range of "
            f"{type(sde).__name__}, within reach of the law",
            f"mean={self.mean:g}, std={self.std:g}",
        )
        u = uniform(n, self.stratified, generator, device)
        z = torch.special.ndtri(below + (upto - below) * u).clamp(a, b)
        return times_at(sde, -2 * (self.mean + self.std * sign * z))


def log_snr_range(sde: LinearSDE) -> tuple[float, float]:
    """The log-SNR at t_min and at T, the higher first.

    Raises
    ------
    ScheduleError
        One of them is infinite: σ(t_min) = 0, or α(T) = 0.
    """
    highest, lowest = sde.log_snr(sde.t_min).item(), sde.log_snr(sde.T).item()
    require(
        finite(highest, lowest),
        f"a finite log-SNR at t_min = {sde.t_min:g} and T = {sde.T:g} (σ and α not 0 there)",
        f"{highest:g} and {lowest:g}",
    )
    return highest, lowest


def times_at(sde: LinearSDE, log_snr: Tensor) -> Tensor:
    """The times of log-SNRs in the SDE's range; rounding does not leave [t_min, T]."""
    return sde.time_at_log_snr(log_snr).clamp(sde.t_min, sde.T)


def normal_cdf(z: float) -> float:
    """Φ(z), to full relative accuracy for z <= 0."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def has_levels(sde: LinearSDE) -> bool:
    """Whether the SDE is a chain with levels of its own."""
    return callable(getattr(sde, "level_times", None))


def default_times(sde: LinearSDE) -> TimeDistribution:
    """The levels of an SDE that has levels, else uniform times."""
    return LevelTimes() if has_levels(sde) else UniformTimes()
