r"""The loss of EDM2, which weighs noise levels by how well the network does there.

If the network also predicts the log :math:`u(\sigma)` of its mean squared error, the loss is

.. math:: \ell = \tfrac12 \Bigl( \frac{\|F - y\|^2}{e^{u(\sigma)}} + d\, u(\sigma) \Bigr)

(Karras et al. 2024, arXiv:2312.02696, eq. 21, after Kendall et al. 2018, arXiv:1705.07115), where d
is the number of elements of a sample. For any F it is smallest at
:math:`e^u = E\|F - y\|^2 / d`. There every level has the same weighted loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.losses.denoising import denoising_loss
from sdescore.losses.loss import Loss
from sdescore.losses.times import default_times
from sdescore.losses.weighting import per_sample_number
from sdescore.nets.ema import plain_network
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Time
from sdescore.wrappers import unwrapped

__all__ = ["uncertainty_loss"]


def uncertainty_loss(
    model: ScoreModel,
    x0: Tensor,
    *,
    t: Time | None = None,
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
) -> Loss:
    """:func:`sdescore.denoising_loss` with its default weighting and a learned uncertainty.

    Pass it to :func:`sdescore.train` as ``objective=``.

    Parameters
    ----------
    model : ScoreModel
        Its network has a method ``log_variance(c)``: u ``(B,)`` at time inputs ``c`` ``(B,)``, as
        :class:`sdescore.nets.EDM2UNet` with ``logvar_channels`` has.
    x0, t, weight, label, noise, generator, sde
        As in :func:`sdescore.denoising_loss`.

    Raises
    ------
    IncompatibleError
        The network has no ``log_variance``; or as :func:`sdescore.denoising_loss`, whose other
        errors it raises too.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.nets.EDM2UNet(
    ...     8, 1, model_channels=16, channel_mult=(1,), num_blocks=1, logvar_channels=8
    ... )
    >>> model = ss.ScoreModel(net, ss.EDMSDE(), sigma_data=0.5)
    >>> ss.losses.uncertainty_loss(model, torch.zeros(4, 1, 8, 8), t=1.0).per_sample.shape
    torch.Size([4])
    """
    inner = unwrapped(model)
    checks.instance("model", inner, ScoreModel, "ss.ScoreModel(net, sde)")
    net: Any = plain_network(inner.net)
    if inner.convention is None or not callable(getattr(net, "log_variance", None)):
        got = f"{type(net).__name__}; use EDM2UNet(logvar_channels=128)"
        checks.refuse("a network with log_variance(c)", got, IncompatibleError)
    if t is None:
        t = default_times(inner.sde).sample(inner.sde, len(x0), generator, x0.device)
    options: dict[str, Any] = {"label": label, "noise": noise}
    options |= {"generator": generator, "sde": sde}
    error = denoising_loss(model, x0, t=t, **options).per_sample
    t64 = checks.time(t, inner.sde.T).to(checks.with_float64(x0.device)).expand(len(x0))
    c = inner.convention.at(t64).time_value.to(inner.dtype)
    u: Tensor = net.log_variance(c.to(x0.device)).to(error)
    per_sample = error / u.exp() + 0.5 * x0[0].numel() * u
    if weight is not None:
        per_sample = per_sample * per_sample_number("weight", weight, x0).to(per_sample)
    return Loss.of(per_sample)
