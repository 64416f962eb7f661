r"""The distribution of the training times.

A distribution of times takes one of two parts, and the two are not to be confused.

**It is the objective.** The loss is an expectation over :math:`t \sim \pi`. Another π is another
objective, with another optimum wherever the network is not perfect: :class:`UniformTimes`,
:class:`LevelTimes`, :class:`LogSNRTimes`, :class:`LogNormalTimes`.

**It is a proposal** for uniform times, as :class:`sdescore.losses.ImportanceTimes` is. It draws
from another density and gives each time the weight that makes up for it, so the objective and the
expected gradient are those of :class:`UniformTimes`, and the variance is not. A proposal overrides
:meth:`TimeDistribution.importance_weight`.

A distribution of one's own is its quantile function, the inverse of its distribution function:

.. code-block:: python

    class EarlyTimes(TimeDistribution):
        def quantile(self, sde, u):  # more times near the data
            return sde.t_min + (sde.T - sde.t_min) * u**2

Distributions of the log-SNR :math:`\log(\alpha^2/\sigma^2)` go by
:meth:`sdescore.LinearSDE.time_at_log_snr`. It is a formula for VE, VP, sub-VP, cosine, EDM and
rectified flow; the interpolated tables of the discrete SDEs, and pairs from
:meth:`sdescore.LinearSDE.from_marginal`, are inverted by bisection.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.sde.linear import LinearSDE

__all__ = ["LevelTimes", "LogNormalTimes", "LogSNRTimes", "TimeDistribution", "UniformTimes"]


@dataclass(frozen=True)
class TimeDistribution(ABC):
    """Where training times come from; a new one defines :meth:`quantile`.

    Parameters
    ----------
    stratified : bool
        Spread the n times of a batch evenly: :math:`u_i = (u + i/n) \\bmod 1` with one uniform u
        for all (Kingma et al. 2021, arXiv:2107.00630, appendix I.1). Each time keeps its
        distribution exactly, so the loss stays unbiased. The times of one batch are no longer
        independent, and the mean over the batch varies less.

    Raises
    ------
    ParameterError
        ``stratified`` is neither True nor False.
    """

    stratified: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        checks.flag("stratified", self.stratified)

    @abstractmethod
    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        """The time below which a share ``u`` in [0, 1] of the times lies, like ``u``; in [0, T]."""

    def importance_weight(self, sde: LinearSDE, t: Tensor) -> Tensor | None:
        """A proposal's factor of the loss at ``t`` ``(B,)``: uniform density over its own.

        None where the distribution is the objective itself.
        """
        return None

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 times on ``device``, in [0, T].

        The random numbers are made where the generator lives, so that its seed means the same
        times on every device.

        Raises
        ------
        ParameterError
            ``n`` is not a non-negative integer.
        IncompatibleError
            ``generator`` is no generator.
        SDEScoreError
            The SDE does not suit the distribution: see :meth:`quantile`.
        """
        if type(n) is not int or n < 0:
            n = checks.count("n", n, at_least=0)
        if generator is not None:
            checks.generator(generator)
        source = torch.device(device) if generator is None else generator.device
        draws = 1 if self.stratified else n
        u = torch.rand(draws, generator=generator, device=source, dtype=torch.float64).to(device)
        if self.stratified:
            u = (u + torch.arange(n, dtype=torch.float64, device=device) / n).frac()
        return self.quantile(sde, u)


class UniformTimes(TimeDistribution):
    """Uniform on ``[sde.t_min, sde.T]`` (Song et al. 2021, arXiv:2011.13456, eq. 7).

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = ss.losses.UniformTimes().sample(ss.VPSDE(), 1000, torch.Generator().manual_seed(0))
    >>> bool((t >= 1e-3).all() and (t <= 1).all())
    True
    """

    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        """``t_min + (T − t_min) u``."""
        return sde.t_min + (sde.T - sde.t_min) * u


class LevelTimes(TimeDistribution):
    """Uniform over the levels of a discrete SDE, at their exact times.

    NCSN's mean over its ladder (Song & Ermon 2019, eq. 6), DDPM's uniform t (Ho et al. 2020,
    eq. 14).

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.DiscreteVPSDE.linear()
    >>> t = ss.losses.LevelTimes().sample(sde, 4, torch.Generator().manual_seed(0))
    >>> bool((sde.level(t) == sde.level(t).round()).all())
    True
    """

    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        """The time of level ``⌊u N⌋`` of the N levels, the last one at ``u = 1``.

        Raises
        ------
        IncompatibleError
            The SDE has no levels.
        """
        checks.that(
            callable(getattr(sde, "level_times", None)),
            "a discrete SDE for LevelTimes",
            f"{type(sde).__name__}; use DiscreteVPSDE or DiscreteVESDE, or UniformTimes()",
            IncompatibleError,
        )
        # A ladder of noise levels may be listed from the largest down; a quantile rises.
        levels: Tensor = sde.level_times().to(u.device).sort().values  # type: ignore[attr-defined]
        return levels[(u * len(levels)).long().clamp(max=len(levels) - 1)]


class LogSNRTimes(TimeDistribution):
    r"""Uniform in the log-SNR between t_min and T: part of the objective.

    In the log-SNR the objective does not depend on the SDE's clock (Kingma et al. 2021,
    arXiv:2107.00630, section 5.1). With ``weighting="sigma2"`` it is the likelihood's objective
    :math:`\int \tfrac12 g^2 \|s - \nabla \log p\|^2 \mathrm{d}t`, divided by the range of the
    log-SNR. On :class:`sdescore.VESDE` this is :class:`UniformTimes`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, times = ss.EDMSDE(sigma_min=0.01, sigma_max=1.0), ss.losses.LogSNRTimes()
    >>> t = times.sample(sde, 10_000, torch.Generator().manual_seed(0))
    >>> round((t < 0.1).double().mean().item(), 2)  # the middle of log 0.01 … log 1
    0.5
    """

    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        """The time whose log-SNR lies a share ``u`` down from that of t_min to that of T.

        Raises
        ------
        ScheduleError
            The log-SNR at t_min or T is infinite.
        """
        highest, lowest = log_snr_range(sde)
        return times_at(sde, highest - (highest - lowest) * u)


@dataclass(frozen=True)
class LogNormalTimes(TimeDistribution):
    r""":math:`\log(\sigma/\alpha)` normal: part of the objective.

    Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std). The distribution is conditioned
    on [t_min, T], so nothing piles up at the ends.

    Parameters
    ----------
    mean, std : float
        Of :math:`\log(\sigma/\alpha)`, std > 0. The paper's −1.2 and 1.2 are meant for data with
        a standard deviation of 0.5.

    Raises
    ------
    ParameterError
        ``mean`` or ``std`` is not finite, or ``std`` not positive.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = ss.losses.LogNormalTimes().sample(ss.EDMSDE(), 10_000, torch.Generator().manual_seed(0))
    >>> round(t.log().median().item(), 1)  # on this SDE σ/α = t
    -1.2
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(
            mean=checks.number("mean", self.mean), std=checks.number("std", self.std, above=0)
        )

    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        """The time at the normal quantile of ``u``, within the SDE's range of σ/α.

        Raises
        ------
        ScheduleError
            The log-SNR at t_min or T is infinite.
        ParameterError
            The mean is so far from the SDE's range that float64 holds nothing of the normal
            distribution there.
        """
        highest, lowest = log_snr_range(sde)
        low, high = ((-0.5 * v - self.mean) / self.std for v in (highest, lowest))
        # Φ rounds to 1 far up, and never far down: a range above the mean is reflected.
        reflected = low > 0
        a, b = (-high, -low) if reflected else (low, high)
        below, upto = normal_cdf(a), normal_cdf(b)
        checks.that(
            upto - below > 1e-300,
            f"log(σ/α) in [{-0.5 * highest:g}, {-0.5 * lowest:g}], the range of "
            f"{type(sde).__name__}, within reach of the distribution",
            f"mean={self.mean:g}, std={self.std:g}",
        )
        share = 1 - u if reflected else u
        score = torch.special.ndtri(below + (upto - below) * share).clamp(a, b)
        return times_at(sde, -2 * (self.mean + self.std * (-score if reflected else score)))


def log_snr_range(sde: LinearSDE) -> tuple[float, float]:
    """The log-SNR at t_min and at T, the higher first.

    Raises
    ------
    ScheduleError
        One of them is infinite: σ(t_min) = 0, or α(T) = 0.
    """
    highest, lowest = sde.log_snr(sde.t_min).item(), sde.log_snr(sde.T).item()
    checks.that(
        math.isfinite(highest) and math.isfinite(lowest),
        f"a finite log-SNR at t_min = {sde.t_min:g} and T = {sde.T:g} (σ and α not 0 there)",
        f"{highest:g} and {lowest:g}",
        ScheduleError,
    )
    return highest, lowest


def times_at(sde: LinearSDE, log_snr: Tensor) -> Tensor:
    """The times of log-SNRs in the SDE's range; rounding does not leave [t_min, T]."""
    return sde.time_at_log_snr(log_snr).clamp(sde.t_min, sde.T)


def normal_cdf(v: float) -> float:
    """Φ(v), to full relative accuracy for v <= 0."""
    return 0.5 * math.erfc(-v / math.sqrt(2))


def default_times(sde: LinearSDE) -> TimeDistribution:
    """The levels of an SDE that has levels of its own, else uniform times."""
    return LEVELS if callable(getattr(sde, "level_times", None)) else UNIFORM


LEVELS, UNIFORM = LevelTimes(), UniformTimes()
