r"""Times from one law, the objective of another.

A proposal draws times from a density q in place of the uniform π on [t_min, T] and weighs each
by :math:`\pi/q`, so that the expected loss, and its gradient, stay those of
:class:`sdescore.losses.UniformTimes`:

.. math:: E_{t \sim q}\, \frac{\pi(t)}{q(t)}\, \ell(t) = E_{t \sim \pi}\, \ell(t) .

:func:`sdescore.denoising_loss` with ``times=`` and :func:`sdescore.train` do so by themselves. Who
draws t from a proposal and hands it on as ``t=`` passes
``weighting=importance_weighted(weighting, times)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import ShapeError
from sdescore.losses.times import LogSNRTimes, TimeDistribution, log_snr_range
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.sde.linear import LinearSDE

__all__ = ["ImportanceTimes"]


@dataclass(frozen=True)
class ImportanceTimes:
    r"""A proposal for uniform times, of density :math:`q \propto g^2/\sigma^2`.

    Under ``weighting="likelihood"`` the ε error of a uniform time is weighed by g²/σ², which is
    about 1/t near the data of a VP SDE. Drawing from that density and weighing by the inverse
    leaves the objective as it is, with less variance (Song et al. 2021, arXiv:2101.09258). And
    since :math:`g^2/\sigma^2 = -\mathrm{d}\lambda/\mathrm{d}t` on **every** linear SDE, with λ the
    log-SNR, the distribution function is linear in λ and :meth:`sdescore.LinearSDE.time_at_log_snr`
    inverts it; nothing is integrated. With :math:`\Lambda = \lambda_{t_{\min}} - \lambda_T`,

    .. math:: q(t) = \frac{1}{\Lambda} \frac{g_t^2}{\sigma_t^2}, \qquad
       \int_{t_{\min}}^t q = \frac{\lambda_{t_{\min}} - \lambda_t}{\Lambda}, \qquad
       \frac{\pi}{q} = \frac{\Lambda}{T - t_{\min}}\, \frac{\sigma_t^2}{g_t^2} .

    So g² π/q is σ² times a constant: the plain error of ε. The times are those of
    :class:`sdescore.losses.LogSNRTimes`; what differs is that the weight goes with them. With
    another weighting the loss is unbiased as well, but may vary more. On :class:`sdescore.VESDE`
    π/q = 1.

    Parameters
    ----------
    stratified : bool
        Spread the times of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, times = ss.VPSDE(), ss.losses.ImportanceTimes(stratified=True)
    >>> t = times.sample(sde, 10_000, torch.Generator().manual_seed(0))
    >>> weight = times.importance_weight(sde, t)
    >>> round(t.mean().item(), 2), round((weight * t).mean().item(), 2)  # 0.5: of a uniform time
    (0.38, 0.5)
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
        return LogSNRTimes(self.stratified).sample(sde, n, generator, device)

    def importance_weight(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """``π/q`` at ``t``, like ``t``; g > 0 there."""
        highest, lowest = log_snr_range(sde)
        mean_rate = (highest - lowest) / (sde.T - sde.t_min)
        return mean_rate * sde.marginal(t)[1].square() / sde.rates(t)[1]


def importance_weighted(weighting: str | Weighting, times: TimeDistribution) -> Weighting:
    """``λ(t)`` times the importance weight of the law that t is drawn from.

    A law without ``importance_weight`` is part of the objective and leaves λ as it is.

    Raises
    ------
    IncompatibleError
        An unknown weighting.
    """
    weigh = named_weighting(weighting)
    importance_weight: Weighting | None = getattr(times, "importance_weight", None)
    if importance_weight is None:
        return weigh

    def product(sde: LinearSDE, t: Tensor) -> Tensor:
        ratio = importance_weight(sde, t)
        if not isinstance(ratio, Tensor) or ratio.shape != t.shape:
            got = tuple(ratio.shape) if isinstance(ratio, Tensor) else type(ratio).__name__
            raise ShapeError(
                f"expected the importance weight as a tensor of shape {tuple(t.shape)}, one per "
                f"time, got {got}"
            )
        return weigh(sde, t) * ratio

    return product
