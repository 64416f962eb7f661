r"""One network, any linear SDE: the times at which two SDEs have the same log-SNR.

Under a linear SDE
:math:`x_t/\alpha_t = x_0 + (\sigma_t/\alpha_t)\,\epsilon`, so two SDEs, the network's own (a prime)
and another, have the same distribution of :math:`x/\alpha` wherever their log-SNRs agree:

.. math::
   \frac{\alpha'_{t'}}{\sigma'_{t'}} = \frac{\alpha_t}{\sigma_t}, \qquad
   k = \frac{\alpha'_{t'}}{\alpha_t} = \frac{\sigma'_{t'}}{\sigma_t} \quad\Longrightarrow\quad
   p_t(x) = k^d\, p'_{t'}(k x), \qquad \nabla \log p_t(x) = k\, \nabla \log p'_{t'}(k x)

(Kingma et al. 2021, arXiv:2107.00630, section 5.1; Karras et al. 2022, section 2 and appendix B,
with :math:`s = \alpha` and the VE SDE as the one in common). :math:`E[x_0 | x_t]` and
:math:`E[\epsilon | x_t]` do not change. So a network under another SDE keeps the pair
:math:`(p, q)` and the time input of t′, and its input is scaled by k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, TimeError
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64
from sdescore.typing import Time


def require_log_snr(sde: LinearSDE) -> None:
    """Refuse an SDE without marginal, log-SNR or the log-SNR's inverse."""
    needed = ("marginal", "log_snr", "time_at_log_snr")
    has = not isinstance(sde, type) and all(callable(getattr(sde, name, None)) for name in needed)
    expected = "linear SDEs, which differ by time and scale alone"
    checks.that(has, expected, f"{sde!r:.200}", IncompatibleError)


def matched(own: LinearSDE, other: LinearSDE, t: Time) -> tuple[Tensor, Tensor]:
    """The times t′ of ``own`` at the log-SNRs of ``other`` at ``t``, and k; both float64.

    A log-SNR outside the range of ``own`` is refused. If only the rounding of ``t`` to float32 (or
    its coarser dtype) moves it out, it becomes the end of the range.
    """
    t64 = checks.time(t, other.T)
    log_snr = other.log_snr(t64)
    low, high = (own.log_snr(float64(end)).item() for end in (own.T, 0.0))
    coarse = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float32
    eps = max(torch.finfo(coarse).eps, torch.finfo(torch.float32).eps)
    slack = 8 * eps * (1 + log_snr.abs().nan_to_num(posinf=0.0))
    if not bool(((log_snr >= low - slack) & (log_snr <= high + slack)).all()):
        raise TimeError(
            f"expected times of {type(other).__name__} with a log-SNR in [{low:g}, {high:g}], "
            f"which {type(own).__name__}, the score's own SDE, covers; got [{log_snr.min():g}, "
            f"{log_snr.max():g}] at t in [{t64.min():g}, {t64.max():g}]. Keep the grid inside, or "
            "choose the SDE's range to fit"
        )
    own_t = own.time_at_log_snr(log_snr.clamp(low, high))
    # k = α′/α = σ′/σ = √(α′²+σ′²)/√(α²+σ²), which amplifies no rounding of t′ at small α′ or σ′.
    (own_alpha, own_sigma), (alpha, sigma) = own.marginal(own_t), other.marginal(t64)
    return own_t, own_alpha.hypot(own_sigma) / alpha.hypot(sigma)
