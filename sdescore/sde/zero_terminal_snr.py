r"""Tables of β whose last level is pure noise: :math:`\beta_N = 1`, so :math:`\bar\alpha_N = 0`.

DDPM's tables leave :math:`\sqrt{\bar\alpha_N}`, 0.006 to 0.07, of the data at the last level. A
network learns to use it, and a sampler that starts from noise does not have it (Lin et al. 2024,
arXiv:2305.08891, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError

__all__ = ["rescale_zero_terminal_snr"]


def rescale_zero_terminal_snr(betas: Sequence[float] | Tensor) -> Tensor:
    r"""A table of β moved so that its last level is pure noise (Lin et al. 2024, algorithm 1).

    .. math:: \sqrt{\bar\alpha_i} \leftarrow \bigl(\sqrt{\bar\alpha_i} - \sqrt{\bar\alpha_N}\bigr)
       \frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_N}},

    so the first level stays and the last becomes 0. A network must be trained on the new table,
    with ``prediction="v"``.

    Parameters
    ----------
    betas : sequence of float, or Tensor
        N >= 2 values in (0, 1), least noise first.

    Returns
    -------
    Tensor
        ``(N,)`` float64; the last value is 1.

    Raises
    ------
    ScheduleError
        Fewer than two values, or one outside (0, 1).

    Examples
    --------
    >>> import sdescore as ss
    >>> table = ss.DiscreteVPSDE.linear(levels=1000).betas
    >>> sde = ss.DiscreteVPSDE(betas=ss.sde.rescale_zero_terminal_snr(table))
    >>> [value.item() for value in sde.marginal(1.0)]  # α and σ
    [0.0, 1.0]
    """
    values = checks.numbers("betas", betas, at_least=2, error=ScheduleError)
    inside = 0 < min(values) <= max(values) < 1
    got = f"values in [{min(values):g}, {max(values):g}]"
    checks.that(inside, "betas, each in (0, 1)", got, ScheduleError)
    beta = torch.tensor(values, dtype=torch.float64, device="cpu")
    alpha = (1 - beta).cumprod(0).sqrt()
    moved = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).square()
    return 1 - moved / torch.cat([torch.ones_like(moved[:1]), moved[:-1]])
