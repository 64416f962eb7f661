"""One network for each noise level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.conditions import each_tensor
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.typing import Condition

__all__ = ["LevelEnsemble"]


class LevelEnsemble(nn.Module):
    """Networks ``f¹ … f^L``, one a level, behind the interface of one shared ``f(x, σ)``.

    Wrap it in a :class:`sdescore.ScoreModel` with ``time_input="level"`` on a discrete SDE. Song &
    Ermon 2019, arXiv:1907.05600, section 4.1, train one shared network instead.

    Parameters
    ----------
    nets : sequence of torch.nn.Module
        ``nets[i]`` serves level ``i`` and is called as ``net(x, c)`` with c the level as a float.

    Raises
    ------
    IncompatibleError
        No networks, or a member that is no module.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> nets = [ss.MLP(2, hidden=8, depth=1) for _ in range(3)]
    >>> ss.nets.LevelEnsemble(nets)(torch.zeros(4, 2), torch.tensor([0, 2, 2, 1])).shape
    torch.Size([4, 2])
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        members = list(nets) if isinstance(nets, Iterable) else []
        if not members or not all(isinstance(net, nn.Module) for net in members):
            got = f"{nets!r:.200}; wrap a function in a module"
            checks.refuse("a sequence of torch.nn.Module, one a level", got, IncompatibleError)
        self.nets = nn.ModuleList(members)

    def forward(self, x: Tensor, level: Tensor, label: Condition | None = None) -> Tensor:
        """Each sample through its level's network; ``x`` is ``(B, *E)``, ``level`` ``(B,)`` int64.

        Raises
        ------
        ShapeError
            ``level`` is not ``(B,)`` int64, or a network's output is not shaped like its input.
        IncompatibleError
            A level without a network.
        """
        checks.state(x)
        one_each = isinstance(level, Tensor) and level.shape == x.shape[:1]
        if not one_each or level.dtype != torch.int64:
            got = type(level).__name__
            if isinstance(level, Tensor):
                got = f"{level.dtype} of shape {tuple(level.shape)}"
            advice = "declare time_input='level' on a discrete SDE"
            checks.refuse(f"int64 levels of shape ({len(x)},)", f"{got}; {advice}", ShapeError)
        if len(x) == 0:
            return torch.empty_like(x)
        found = sorted(set(level.tolist()))
        if found[0] < 0 or found[-1] >= len(self.nets):
            expected = f"levels 0 … {len(self.nets) - 1}, one a network"
            checks.refuse(expected, f"{found[0]} … {found[-1]}", IncompatibleError)
        outputs, all_rows = [], []
        for i in found:
            rows = (level == i).nonzero().flatten()
            arguments = (x[rows], level[rows].to(x.dtype))
            own = each_tensor(itemgetter(rows), label)
            y = self.nets[i](*arguments, *(() if own is None else (own,)))
            checks.same_shape(y, arguments[0], f"the output of nets[{i}]", "its input")
            outputs.append(y)
            all_rows.append(rows)
        return torch.cat(outputs)[torch.cat(all_rows).argsort()]
