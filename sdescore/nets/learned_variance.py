"""A network with as many channels again, for the variance."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.score.interface import require_label
from sdescore.typing import Condition

__all__ = ["LearnedVariance"]


def halves(y: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction and the variance in a network's output ``(B, 2C, …)`` at ``x`` ``(B, C, …)``.

    Of an object with a tensor ``sample``, as diffusers' networks return, it is that tensor.

    Raises
    ------
    IncompatibleError, ShapeError
        The output is no tensor, or has another shape.
    """
    y = y if isinstance(y, Tensor) else getattr(y, "sample", y)
    if not isinstance(y, Tensor):
        checks.refuse("a network that returns a tensor", type(y).__name__, IncompatibleError)
    shape = (len(x), 2 * x.shape[1], *x.shape[2:]) if x.ndim > 1 else None
    expected = f"twice the channels of an input {tuple(x.shape)}, {shape}"
    checks.that(y.shape == shape, expected, tuple(y.shape), ShapeError)
    prediction, v = y.chunk(2, dim=1)
    return prediction, v


class LearnedVariance(nn.Module):
    r"""A network that returns ``(B, 2C, …)``: its prediction, and after it the variance v.

    By itself it is the network of the prediction. :class:`sdescore.Ancestral` with
    ``variance="learned_range"`` and :func:`sdescore.samplers.variational_bound` read v as well
    (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).

    Parameters
    ----------
    net : torch.nn.Module or callable
        ``net(x, c)``, or ``net(x, c, label)`` where there is a label. It returns the tensor, or an
        object with a tensor ``sample``.

    Raises
    ------
    IncompatibleError
        ``net`` cannot be called.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> both = lambda x, level: torch.cat([x, torch.zeros_like(x)], dim=1)
    >>> net = ss.nets.LearnedVariance(both)
    >>> model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(10), "epsilon", "continuous_level")
    >>> sampler = ss.PredictorCorrector(model.sde, predictor=ss.Ancestral("learned_range"))
    >>> sampler.sample(model, shape=(5, 3, 8, 8)).shape
    torch.Size([5, 3, 8, 8])
    """

    def __init__(self, net: nn.Module | Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = checks.function("the network", net)

    def require_label(self, label: object) -> None:
        """Refuse a label that the network does not take, by an ``IncompatibleError``."""
        require_label(self.net, label)

    def forward(self, x: Tensor, c: Tensor, label: Condition | None = None) -> Tensor:
        """The prediction alone, like ``x`` ``(B, C, …)``; see :meth:`with_variance`."""
        return self.with_variance(x, c, label)[0]

    def with_variance(
        self, x: Tensor, c: Tensor, label: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """The prediction and v at ``x`` ``(B, C, …)`` and times ``c`` ``(B,)``, each like ``x``.

        Raises
        ------
        IncompatibleError, ShapeError
            The network's output is no tensor, or no ``(B, 2C, …)``.
        """
        return halves(self.net(x, c) if label is None else self.net(x, c, label), x)
