r"""The network of EDM's VE preconditioning, as one that predicts ε."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sdescore.nets.edm import SongUNet

__all__ = ["SongUNetVE"]


class SongUNetVE(SongUNet):
    r"""``-F(x, c - log 2)`` for a :class:`sdescore.nets.SongUNet` F; with c = log σ it estimates ε.

    In EDM's VE preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1) the denoiser is
    :math:`D(x; \sigma) = x + \sigma F(x; \log(\sigma/2))`, and :math:`D = x - \sigma\epsilon`.
    Parameters, their names and ``config`` are those of :class:`sdescore.nets.SongUNet`.

    Examples
    --------
    >>> import torch
    >>> net = SongUNetVE(8, 3, model_channels=16, channel_mult=(1, 2), num_blocks=1)
    >>> net(torch.randn(2, 3, 8, 8), torch.rand(2)).shape
    torch.Size([2, 3, 8, 8])
    """

    config: dict[str, Any]

    def forward(
        self, x: Tensor, c: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """The estimate of ε; see :meth:`sdescore.nets.SongUNet.forward`."""
        return -super().forward(x, c - math.log(2), label, augment)
