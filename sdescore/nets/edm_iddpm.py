r"""The network of EDM's iDDPM preconditioning, as one that predicts ε at any noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.nets.edm_adm import DhariwalUNet
from sdescore.nets.learned_variance import halves

__all__ = ["DhariwalUNetIDDPM"]


class DhariwalUNetIDDPM(DhariwalUNet):
    r"""A :class:`sdescore.nets.DhariwalUNet` that was trained at the levels of a table.

    Nichol & Dhariwal 2021 (arXiv:2102.09672) trained it at M levels with

    .. math:: u_M = 0, \qquad u_{j-1}^2 = \frac{u_j^2 + 1}{\max(\bar\alpha_{j-1}/\bar\alpha_j, C_1)}
       - 1, \qquad \bar\alpha_j = \sin^2 \frac{\pi j}{2 M (C_2 + 1)}

    (Karras et al. 2022, arXiv:2206.00364, table 1). ``c`` is :math:`\tfrac14 \log(\sigma/\alpha)`.
    The network below gets the level :math:`M - 1 - j` of the :math:`u_j` nearest to σ/α, as an
    integer. It has ``2 in_channels`` outputs: ε, and after it the variance v, which
    :class:`sdescore.Ancestral` with ``variance="learned_range"`` reads.

    Parameters
    ----------
    img_resolution, in_channels, classes, augment_dim, model_channels
        As in :class:`sdescore.nets.SongUNet`.
    channel_mult, channel_mult_emb, num_blocks, attn_resolutions, dropout
        As in :class:`sdescore.nets.DhariwalUNet`.
    M : int
        Number of levels, >= 1.
    C_1 : float
        In (0, 1): the smallest ratio of two :math:`\bar\alpha`.
    C_2 : float
        > 0: the offset of the cosine.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``DhariwalUNetIDDPM(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError
        An argument lies outside its range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.nets.DhariwalUNetIDDPM(8, 3, model_channels=16, channel_mult=(1, 2), num_blocks=1)
    >>> net(torch.randn(2, 3, 8, 8), torch.tensor([-1.0, 1.0])).shape
    torch.Size([2, 3, 8, 8])
    """

    config: dict[str, Any]
    u: Tensor

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        classes: int | None = None,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        M: int = 1000,
        C_1: float = 0.001,
        C_2: float = 0.008,
    ) -> None:
        betas = iddpm_betas(M, C_1, C_2)
        super().__init__(
            img_resolution, in_channels, 2 * in_channels, classes, augment_dim, model_channels,
            channel_mult, channel_mult_emb, num_blocks, attn_resolutions, dropout,
        )  # fmt: skip
        del self.config["out_channels"]
        self.config |= {"M": M, "C_1": C_1, "C_2": C_2}
        total, u = 0.0, [0.0]
        for beta in betas:
            total -= math.log1p(-beta)  # −log of the product of 1 − β
            u.append(math.sqrt(math.expm1(total)))
        table = torch.tensor(u[::-1], dtype=torch.float64, device="cpu")
        self.register_buffer("u", table.to(torch.get_default_device(), torch.float32))

    def forward(
        self, x: Tensor, c: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """The estimate of ε; see :meth:`sdescore.nets.SongUNet.forward`."""
        return self.with_variance(x, c, label, augment)[0]

    def with_variance(
        self, x: Tensor, c: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The estimate of ε and the learned variance v, each like ``x``; see :meth:`forward`."""
        sigma = (4 * c.to(torch.promote_types(c.dtype, torch.float32))).exp()
        nearest = (sigma[:, None] - self.u.to(sigma.dtype)).abs().argmin(1)
        level = (len(self.u) - 2 - nearest).to(sigma.dtype)
        return halves(super().forward(x, level, label, augment), x)


def iddpm_betas(M: int = 1000, C_1: float = 0.001, C_2: float = 0.008) -> tuple[float, ...]:
    """β of every level, the least noise first."""
    M = checks.count("M", M)
    smallest = checks.number("C_1", C_1, above=0, below=1)
    offset = checks.number("C_2", C_2, above=0)
    alpha_bar = [math.sin(math.pi / 2 * j / (M * (offset + 1))) ** 2 for j in range(M, -1, -1)]
    ratios = [after / before for before, after in pairwise(alpha_bar)]
    return tuple(1 - max(ratio, smallest) for ratio in ratios)
