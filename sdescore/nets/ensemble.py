"""One network for each noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdescore.errors import IncompatibleError, ShapeError

__all__ = ["LevelEnsemble"]


class LevelEnsemble(nn.Module):
    """Networks ``f¹ … f^L``, one a level, behind the interface of one shared ``f(x, σ)``.

    Wrap it in a :class:`sdescore.ScoreModel` with ``time_input="level"`` on a discrete SDE. (Song
    & Ermon 2019, arXiv:1907.05600, section 4.1, train one shared network instead; this is the
    alternative they replace.)

    Parameters
    ----------
    nets : sequence of torch.nn.Module
        ``nets[i]`` serves level ``i`` and is called as ``net(x, c)`` with c the level as a float.

    Raises
    ------
    IncompatibleError
        No networks.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> nets = [ss.MLP(2, hidden=8, depth=1) for _ in range(3)]
    >>> ss.LevelEnsemble(nets)(torch.zeros(4, 2), torch.tensor([0, 2, 2, 1])).shape
    torch.Size([4, 2])
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        if not nets:
            raise IncompatibleError("expected one network a level, got none")
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """Each sample through its level's network; ``x`` is ``(B, *E)``, ``level`` ``(B,)`` int64.

        Raises
        ------
        ShapeError
            ``level`` is not int64.
        IncompatibleError
            A level without a network.
        """
        if level.dtype != torch.int64:
            raise ShapeError(
                f"expected int64 levels, got {level.dtype}; declare time_input='level' on a "
                "discrete SDE"
            )
        out = torch.empty_like(x)
        for i in sorted(set(level.tolist())):
            if not 0 <= i < len(self.nets):
                raise IncompatibleError(
                    f"expected levels 0 … {len(self.nets) - 1}, one a network, got {i}"
                )
            rows = level == i
            arguments = (x[rows], level[rows].to(x.dtype))
            out[rows] = self.nets[i](*arguments, *(() if label is None else (label[rows],)))
        return out
