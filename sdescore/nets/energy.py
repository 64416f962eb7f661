r"""A score that is the gradient of a scalar network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sdescore import checks
from sdescore.score.divergence import gradient
from sdescore.score.interface import require_label, require_scalars
from sdescore.typing import Condition

__all__ = ["EnergyModel"]


class EnergyModel(nn.Module):
    r"""An energy-based model's score, which needs no normalising constant:

    .. math:: p(x) \propto e^{f(x)} \quad\Longrightarrow\quad \nabla_x \log p(x) = \nabla_x f(x)

    (Song & Kingma 2021, arXiv:2101.03288, section 2). By itself, ``EnergyModel(net)(x)``, it is a
    score without time, for :func:`sdescore.langevin.chains` and for plain score matching; under an
    SDE wrap it: ``ScoreModel(EnergyModel(net), sde, prediction="score")``. The gradient is
    differentiable again, also under ``torch.func``, so that every objective can train it.

    Parameters
    ----------
    net : torch.nn.Module or callable
        ``net(x)``, ``net(x, c)`` or ``net(x, c, label)``, whichever it is called with; ``x`` is
        ``(B, *E)`` and ``f`` is returned as ``(B,)``, each from its own sample. The potential of
        physics is U = −f. Autograd must be able to follow ``f`` back to ``x`` under
        ``torch.func.vjp``, which takes neither ``torch.utils.checkpoint`` nor an
        ``autograd.Function`` without ``setup_context``.

    Raises
    ------
    IncompatibleError
        ``net`` cannot be called.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> well = ss.EnergyModel(lambda x: -0.5 * x.square().sum(-1))
    >>> well(torch.tensor([[1.0, -2.0]]))
    tensor([[-1.,  2.]])
    >>> well.log_density(torch.tensor([[1.0, -2.0]]))
    tensor([-2.5000])
    """

    def __init__(self, net: nn.Module | Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = checks.function("the energy network", net)

    def require_label(self, label: object) -> None:
        """Refuse a label that the network does not take, by an ``IncompatibleError``."""
        require_label(self.net, label)

    def log_density(
        self, x: Tensor, c: Tensor | None = None, label: Condition | None = None
    ) -> Tensor:
        """``f(x, c)``, the log density up to a constant in ``x``: ``(B,)``; see :meth:`forward`."""
        checks.state(x)
        arguments = (x,) if c is None else (x, c) if label is None else (x, c, label)
        f: Tensor = self.net(*arguments)
        require_scalars(f, x, "the energy network's output")
        return f

    def forward(self, x: Tensor, c: Tensor | None = None, label: Condition | None = None) -> Tensor:
        """``∇ₓ f(x, c)``, like ``x`` ``(B, *E)``.

        Raises
        ------
        ShapeError
            ``x`` is not ``(B, *E)`` in floating point, or the network's output is not one scalar
            per sample.
        IncompatibleError
            Autograd does not see how ``f`` depends on ``x``, so that its gradient would be 0.
        """
        checks.state(x)
        return gradient(lambda y: self.log_density(y, c, label), x, "an energy")
