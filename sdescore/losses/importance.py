r"""Times from one distribution, the objective of another.

A proposal draws times from a density q in place of the uniform π on [t_min, T] and multiplies each
loss by :math:`\pi/q`, so that the expected loss, and its gradient, stay those of
:class:`sdescore.losses.UniformTimes`:

.. math:: E_{t \sim q}\, \frac{\pi(t)}{q(t)}\, \ell(t) = E_{t \sim \pi}\, \ell(t) .

:func:`sdescore.denoising_loss` with ``times=`` and :func:`sdescore.train` do so by themselves. If
you draw t from a proposal and hand it on as ``t=``, pass
``weight=times.importance_weight(sde, t)`` as well.
"""

from __future__ import annotations

from torch import Tensor

from sdescore.losses.times import LogSNRTimes, log_snr_range
from sdescore.sde.linear import LinearSDE

__all__ = ["ImportanceTimes"]


class ImportanceTimes(LogSNRTimes):
    r"""A proposal for uniform times, of density :math:`q \propto g^2/\sigma^2`.

    Under ``weighting="likelihood"`` the ε error of a uniform time has the weight g²/σ², which is
    about 1/t near the data of a VP SDE. To draw from that density and divide by it leaves the
    objective as it is, with less variance (Song et al. 2021, arXiv:2101.09258). On **every** linear
    SDE :math:`g^2/\sigma^2 = -\mathrm{d}\ell/\mathrm{d}t`, where
    :math:`\ell = \log(\alpha^2/\sigma^2)` is the log-SNR. So the distribution function is linear in
    the log-SNR, and :meth:`sdescore.LinearSDE.time_at_log_snr` inverts it; nothing is integrated.
    With
    :math:`\Delta = \ell_{t_{\min}} - \ell_T`,

    .. math:: q(t) = \frac{1}{\Delta} \frac{g_t^2}{\sigma_t^2}, \qquad
       \int_{t_{\min}}^t q = \frac{\ell_{t_{\min}} - \ell_t}{\Delta}, \qquad
       \frac{\pi}{q} = \frac{\Delta}{T - t_{\min}}\, \frac{\sigma_t^2}{g_t^2} .

    So g² π/q is σ² times a constant: the plain error of ε. The times are those of
    :class:`sdescore.losses.LogSNRTimes`, and the weight comes with them. With another weighting
    the loss is unbiased as well, but may vary more. On :class:`sdescore.VESDE` π/q = 1.

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
