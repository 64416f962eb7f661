r"""The network of NCSN (Song & Ermon 2019, arXiv:1907.05600, appendix A).

Every normalisation has its own weights for each level i: :math:`s(x, \sigma_i) = f(2x - 1, i)` for
data in [0, 1].
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.nets.blocks_ncsn import Normalization
from sdescore.nets.refinenet import RefineNet, architecture

__all__ = ["NCSN"]


class NCSN(RefineNet):
    r"""The conditional network of Song & Ermon 2019 for images ``(B, channels, H, W)``.

    ``c`` is the integer level ``(B,)``, 0 for the largest σ; the output is a score.

    Parameters
    ----------
    channels, width, rescaled, nonlinearity
        As in :class:`sdescore.nets.NCSNv2`; the paper's width is 64 for MNIST, else 128.
    levels : int
        Number of levels L, >= 1; the paper's 10.
    depth : int
        Number of stages: 4, as in the paper (official names ``CondRefineNetDilated`` and ``NCSN``),
        or 5 (``CondRefineNetDeeperDilated`` and ``NCSNdeeper``). H and W must be multiples of 2
        or 4.
    normalization : str
        ``"InstanceNorm++"``, as in the paper, or ``"InstanceNorm"``, which
        ``CondRefineNetDeeperDilated`` has.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``NCSN(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError, IncompatibleError
        An argument is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.nets.NCSN(1, levels=10, width=8)
    >>> net(torch.rand(2, 1, 28, 28), torch.tensor([0, 9])).shape
    torch.Size([2, 1, 28, 28])
    """

    config: dict[str, Any]

    def __init__(
        self,
        channels: int,
        levels: int = 10,
        width: int = 128,
        rescaled: bool = False,
        nonlinearity: str = "elu",
        depth: int = 4,
        normalization: str = "InstanceNorm++",
    ) -> None:
        levels = checks.count("levels", levels)
        depth = int(checks.choice("depth", depth, (4, 5)))
        checks.choice("normalization", normalization, ("InstanceNorm++", "InstanceNorm"))
        config = architecture(channels, width, rescaled, nonlinearity)
        config |= {"levels": levels, "depth": depth, "normalization": normalization}
        super().__init__(config, Normalization(levels, normalization == "InstanceNorm++"), depth)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The score at integer levels ``c``; see :meth:`sdescore.nets.NCSNv2.forward`."""
        self.check(x, c, label, self.config["levels"])
        expected = "integer levels for NCSN, whose normalisations are a table"
        got = f"{c.dtype}; use time_input='level'"
        checks.that(not c.is_floating_point(), expected, got, ShapeError)
        return self.features(x, c)
