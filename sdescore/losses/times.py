r"""Training times: uniform, at levels, or by their log-SNR :math:`\ell = \log(\alpha^2/\sigma^2)`.

A loss is an expectation over :math:`t \sim \pi`. Another π is another objective, with another
optimum wherever the network is not perfect. :class:`ImportanceTimes` is a *proposal*: it draws
times from a density q in place of the uniform π on [t_min, T], and the loss L(t) is multiplied by
:math:`\pi/q` (:meth:`TimeDistribution.importance_weight`),

.. math:: E_{t \sim q}\, \frac{\pi(t)}{q(t)}\, L(t) = E_{t \sim \pi}\, L(t) .

That keeps the objective of :class:`UniformTimes` and its expected gradient, and changes the
variance.

:func:`sdescore.denoising_loss` with ``times=`` and :func:`sdescore.train` apply this factor. If
you draw t from a proposal and hand it on as ``t=``, pass
``weight=times.importance_weight(sde, t)`` as well.

:meth:`sdescore.LinearSDE.time_at_log_snr` finds the times. It is a formula for VE, VP, sub-VP,
cosine, EDM and rectified flow; the interpolated tables of the discrete SDEs, and pairs from
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

__all__ = [
    "ImportanceTimes",
    "LevelTimes",
    "LogNormalTimes",
    "LogSNRTimes",
    "TimeDistribution",
    "UniformTimes",
]


@dataclass(frozen=True)
class TimeDistribution(ABC):
    """Where training times come from; a new one defines :meth:`quantile`.

    Parameters
    ----------
    stratified : bool
        Spread the n times of a batch evenly: :math:`u_i = (u + i/n) \\bmod 1` with one uniform u
        for all (Kingma et al. 2021, arXiv:2107.00630, appendix I.1). The loss stays unbiased, and
        its mean over the batch varies less.

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
        """A proposal's factor at ``t`` ``(B,)``: uniform density over its own; else None."""
        return None

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 times on ``device``, in [0, T]; a seed gives the same on every device.

        Raises
        ------
        ParameterError, IncompatibleError
            ``n`` is not a non-negative integer, or ``generator`` is no generator.
        SDEScoreError
            The SDE does not suit the distribution: see :meth:`quantile`.
        """
        if type(n) is not int or n < 0:
            n = checks.count("n", n, at_least=0)
        if generator is not None:
            checks.generator(generator)
        device = checks.with_float64(device)
        source = device if generator is None else generator.device
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
    >>> times = ss.losses.UniformTimes(stratified=True)
    >>> t = times.sample(ss.VPSDE(), 4, torch.Generator().manual_seed(0))
    >>> (4 * t).floor().sort().values.tolist()  # one in each quarter of the time
    [0.0, 1.0, 2.0, 3.0]
    """

    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        """``t_min + (T − t_min) u``."""
        return sde.t_min + (sde.T - sde.t_min) * u


class LevelTimes(TimeDistribution):
    """Uniform over the levels of a discrete SDE (Song & Ermon 2019, eq. 6; Ho et al. 2020, eq. 14).

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
        own, got = default_times(sde), f"{type(sde).__name__}; use DiscreteVPSDE or DiscreteVESDE"
        checks.that(own is LEVELS, "a discrete SDE for LevelTimes", got, IncompatibleError)
        # A ladder of noise levels may be listed from the largest down; a quantile rises.
        levels: Tensor = sde.level_times().to(u.device).sort().values  # type: ignore[attr-defined]
        return levels[(u * len(levels)).long().clamp(max=len(levels) - 1)]


def default_times(sde: LinearSDE) -> TimeDistribution:
    """The levels of an SDE that has levels of its own, else uniform times."""
    return LEVELS if callable(getattr(sde, "level_times", None)) else UNIFORM


LEVELS, UNIFORM = LevelTimes(), UniformTimes()


class LogSNRTimes(TimeDistribution):
    r"""Uniform in the log-SNR between t_min and T.

    In the log-SNR the objective does not depend on the SDE's clock (Kingma et al. 2021,
    arXiv:2107.00630, section 5.1). With ``weighting="sigma2"`` it is the likelihood's objective
    :math:`\int \tfrac12 g^2 \|s - \nabla \log p\|^2 \mathrm{d}t`, divided by the range of the
    log-SNR. On :class:`sdescore.VESDE` these times are uniform.

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


class ImportanceTimes(LogSNRTimes):
    r"""A proposal for uniform times, of density :math:`q \propto g^2/\sigma^2`.

    With ``weighting="likelihood"`` and uniform times, the ε error has the weight g²/σ². Drawing the
    times from this density and dividing by it keeps the objective, with less variance (Song et
    al. 2021, arXiv:2101.09258). On **every** linear SDE
    :math:`g^2/\sigma^2 = -\mathrm{d}\ell/\mathrm{d}t`, so the distribution function is linear in
    the log-SNR. With :math:`\Delta = \ell_{t_{\min}} - \ell_T`,

    .. math:: q(t) = \frac{1}{\Delta} \frac{g_t^2}{\sigma_t^2}, \qquad
       \int_{t_{\min}}^t q = \frac{\ell_{t_{\min}} - \ell_t}{\Delta}, \qquad
       \frac{\pi}{q} = \frac{\Delta}{T - t_{\min}}\, \frac{\sigma_t^2}{g_t^2} .

    So g² π/q is σ² times a constant: the plain error of ε. The times are those of
    :class:`LogSNRTimes`, and the weight comes with them. With another weighting the loss is
    unbiased as well, but may vary more. On :class:`sdescore.VESDE` π/q = 1.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, times = ss.VPSDE(), ss.losses.ImportanceTimes(stratified=True)
    >>> t = times.sample(sde, 10_000, torch.Generator().manual_seed(0))
    >>> weight = times.importance_weight(sde, t)
    >>> round(t.mean().item(), 2), round((weight * t).mean().item(), 2)  # 0.5: of a uniform time
    (0.38, 0.5)
    """

    def importance_weight(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """``π/q`` at ``t``, like ``t``; g > 0 there."""
        highest, lowest = log_snr_range(sde)
        mean_rate = (highest - lowest) / (sde.T - sde.t_min)
        return mean_rate * sde.marginal(t)[1].square() / sde.rates(t)[1]


@dataclass(frozen=True)
class LogNormalTimes(TimeDistribution):
    r"""Times with a normal :math:`\log(\sigma/\alpha)`.

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
        # Φ(v) to full relative accuracy for v <= 0.
        below, upto = (0.5 * math.erfc(-v / math.sqrt(2)) for v in (a, b))
        if not upto - below > 1e-300:
            checks.refuse(
                f"log(σ/α) in [{-0.5 * highest:g}, {-0.5 * lowest:g}], the range of "
                f"{type(sde).__name__}, within reach of the distribution",
                f"mean={self.mean:g}, std={self.std:g}",
            )
        share = 1 - u if reflected else u
        score = torch.special.ndtri(below + (upto - below) * share).clamp(a, b)
        return times_at(sde, -2 * (self.mean + self.std * (-score if reflected else score)))


def log_snr_range(sde: LinearSDE) -> tuple[float, float]:
    """The log-SNR at t_min and at T, the higher first; refused unless both are finite."""
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64, device="cpu")
    highest, lowest = sde._log_snr(ends).tolist()
    if not (math.isfinite(highest) and math.isfinite(lowest)):
        where = f"at t_min = {sde.t_min:g} and T = {sde.T:g} (σ and α not 0 there)"
        got = f"{highest:g} and {lowest:g}"
        checks.refuse(f"a finite log-SNR {where}", got, ScheduleError)
    return highest, lowest


def times_at(sde: LinearSDE, log_snr: Tensor) -> Tensor:
    """The times of log-SNRs in the SDE's range; rounding does not leave [t_min, T]."""
    return sde._time_at_log_snr(log_snr).clamp(sde.t_min, sde.T)
