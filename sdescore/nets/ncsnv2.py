r"""The network of NCSNv2 (Song & Ermon 2020, arXiv:2006.09011, technique 3).

One network f serves all levels, and its output is divided by σ. For data in [0, 1]

.. math:: s(x, \sigma_i) = f(2x - 1) / \sigma_i .
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.nets.blocks_ncsn import Normalization
from sdescore.nets.refinenet import STAGES, RefineNet, architecture
from sdescore.shapes import align

__all__ = ["NCSNv2"]


class NCSNv2(RefineNet):
    r"""The network of Song & Ermon 2020 for images ``(B, channels, H, W)``; its output is a score.

    ``c`` is the level ``(B,)``, 0 for the largest σ. Integers take σ from the table; between two
    levels log σ is linear, so both ``time_input="level"`` and ``"continuous_level"`` work.

    Parameters
    ----------
    channels : int
        Channels of the data, and of the output.
    sigmas : sequence of float
        The noise levels, at least two, strictly decreasing, in the units of the data.
    width : int
        Channels at full resolution, >= 2; the paper's 128.
    depth : int
        Number of stages: 4 (official name ``NCSNv2``, for 32×32 and 64×64), 5 (``NCSNv2Deeper``,
        for 96×96 and 128×128) or 6 (``NCSNv2Deepest``, for 256×256). H and W must be multiples of
        2, 4 or 8.
    rescaled : bool
        Whether the states already are centred on 0, as those of :func:`sdescore.train` are. Without
        it the network takes data in [0, 1] and computes 2x − 1 itself.
    nonlinearity : str
        ``"elu"``, as in the paper, ``"relu"``, ``"lrelu"`` (slope 0.2) or ``"swish"``.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``NCSNv2(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError, IncompatibleError
        An argument is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=232)
    >>> net = ss.nets.NCSNv2(3, sde.sigmas, width=8)
    >>> net(torch.rand(2, 3, 16, 16), torch.tensor([0, 231])).shape
    torch.Size([2, 3, 16, 16])
    >>> model = ss.ScoreModel(net, sde, prediction="score", time_input="level")
    """

    config: dict[str, Any]
    sigmas: Tensor

    def __init__(
        self,
        channels: int,
        sigmas: Sequence[float],
        width: int = 128,
        depth: int = 4,
        rescaled: bool = False,
        nonlinearity: str = "elu",
    ) -> None:
        sigmas = checks.numbers("sigmas", sigmas, at_least=2)
        falling = all(high > low for high, low in pairwise((*sigmas, 0.0)))
        got = f"{len(sigmas)} values starting with {sigmas[:3]}"
        checks.that(falling, "strictly decreasing sigmas > 0, largest noise first", got)
        config = architecture(channels, width, rescaled, nonlinearity)
        depth = int(checks.choice("depth", depth, list(STAGES)))
        super().__init__({**config, "sigmas": list(sigmas), "depth": depth}, Normalization(), depth)
        table = torch.tensor(sigmas, dtype=torch.float64, device="cpu")
        self.register_buffer("sigmas", table.to(torch.get_default_device(), torch.float32))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The score, like ``x`` ``(B, channels, H, W)``, at levels ``c`` ``(B,)``.

        Raises
        ------
        ShapeError, IncompatibleError
            ``x`` or ``c`` does not fit the network, or there is a label.
        """
        self.check(x, c, label, len(self.sigmas))
        sigma = self.sigmas[c] if not c.is_floating_point() else self.sigma_between(c)
        y = self.features(x, c)
        return y / align(sigma.to(x.dtype), y)

    def sigma_between(self, c: Tensor) -> Tensor:
        """σ at real levels ``(B,)``: the table's, and log σ linear between two of them."""
        below = c.detach().floor().clamp(0, len(self.sigmas) - 2)
        weight, index = c - below, below.long()
        sigma: Tensor = self.sigmas[index] ** (1 - weight) * self.sigmas[index + 1] ** weight
        return sigma
