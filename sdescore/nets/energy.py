r"""A score that is the gradient of a scalar network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdescore.errors import ShapeError

__all__ = ["EnergyModel"]


class EnergyModel(nn.Module):
    r"""An energy-based model's score, which needs no normalising constant:

    .. math:: p(x) \propto e^{f(x)} \quad\Longrightarrow\quad \nabla_x \log p(x) = \nabla_x f(x)

    (Song & Kingma 2021, arXiv:2101.03288, section 2). Wrap it as any network that predicts the
    score: ``ScoreModel(EnergyModel(net), sde, prediction="score")``. The gradient is
    differentiable again where gradients are enabled, so it can be trained by score matching.

    Parameters
    ----------
    net : torch.nn.Module
        ``net(x, c)`` or ``net(x, c, label)`` with ``x`` ``(B, *E)``, returning ``f`` as ``(B,)``.
        The potential of physics is U = −f.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> class Well(torch.nn.Module):
    ...     def forward(self, x, c):
    ...         return -0.5 * x.square().sum(-1)
    >>> ss.EnergyModel(Well())(torch.tensor([[1.0, -2.0]]), torch.zeros(1)).detach()
    tensor([[-1.,  2.]])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """``∇ₓ f(x, c)``, like ``x`` ``(B, *E)``.

        Raises
        ------
        ShapeError
            The network's output is not one scalar per sample.
        """
        again = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            # Outside a training step the state needs no gradient of its own.
            given = x if again and x.requires_grad else x.detach().clone().requires_grad_()
            c = c.clone() if c.is_inference() else c
            f = self.net(given, c) if label is None else self.net(given, c, label)
            if not isinstance(f, Tensor) or f.shape != x.shape[:1]:
                got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
                raise ShapeError(
                    f"expected the energy network to return one scalar per sample, "
                    f"({x.shape[0]},), got {got}; squeeze or sum its output"
                )
            return torch.autograd.grad(f.sum(), given, create_graph=again)[0]
