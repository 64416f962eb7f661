r"""A dequantization that is trained.

The density q(u | x) that is proportional to the model's own within a bin makes the bound of
:mod:`sdescore.samplers.bits` an equality. A network comes near it when it is trained by the bound
itself (Ho et al. 2019, arXiv:1902.00275, section 3.1):

.. math:: \log P(x) \ge E_{z \sim N(0, I)} \bigl[ \log p(v) - \log q(u | x) \bigr] + d \log w ,
   \qquad v = x + w (u - \tfrac12) .

Here u is the normal distribution function Φ of a normal number, element by element:

.. math:: u = \Phi(a), \quad a = \mu(x) + e^{s(x)} z, \qquad
   \log q(u | x) = \sum \bigl[ \tfrac12 (a^2 - z^2) - s \bigr] .

For μ = s = 0 it is uniform. The gradient of log p goes back through the flow. The score at t_min
would be cheaper, but is that gradient only if it is exact: a network's flow has its own density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.samplers.bits import dequantized, flow_of
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.request import home
from sdescore.samplers.variational_bound import Bins
from sdescore.shapes import sum_event
from sdescore.typing import Condition, Score

__all__ = ["VariationalDequantization"]


class VariationalDequantization(nn.Module):
    """A density of u in each datum's bin, for :func:`sdescore.bits_per_dimension`.

    It is uniform until it is trained. The bits are an upper bound at any stage of the training.

    Parameters
    ----------
    net : torch.nn.Module
        For data ``(B, C, ...)`` it returns ``(B, 2C, ...)``: μ, then s. Each is multiplied by a
        trained number that starts at 0.

    Raises
    ------
    IncompatibleError, ShapeError
        ``net`` is no module; or, when called, it returns something else.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore(torch.zeros(2), 0.1, ss.VPSDE())
    >>> flow = ss.ProbabilityFlow(score.sde, method="rk4", steps=4)
    >>> x = score.sample(64, seed=0).round().clamp(-1, 1)  # −1, 0, 1
    >>> q = ss.samplers.VariationalDequantization(torch.nn.Linear(2, 4))
    >>> optimizer = torch.optim.Adam(q.parameters(), 0.3)
    >>> for step in range(10):
    ...     optimizer.zero_grad()
    ...     q.loss(score, x, levels=3, flow=flow, seed=step).mean().backward()
    ...     optimizer.step()
    >>> bits = [ss.bits_per_dimension(score, x, levels=3, dequantization=d) for d in (q, "uniform")]
    >>> bits[0].mean < bits[1].mean
    True
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = checks.instance("net", net, nn.Module, "torch.nn.Linear(d, 2 * d)")
        self.gain = nn.Parameter(torch.zeros(2, dtype=torch.float32, device=home(net)[0]))

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """``u``, like ``x``, from standard normal numbers ``z``; and log q ``(B,)`` in nats."""
        checks.same_shape(z, x, "z")
        checks.that(x.ndim >= 2, "x of shape (B, C, ...)", tuple(x.shape), ShapeError)
        real = (p.dtype for p in self.net.parameters() if p.is_floating_point())
        y = self.net(x.to(next(real, x.dtype)))
        y = checks.score_output(y, torch.cat([x, x], 1), "net")
        mean, log_scale = y.to(x).chunk(2, 1)
        log_scale = self.gain[1].to(x) * log_scale
        a = self.gain[0].to(x) * mean + log_scale.exp() * z
        return torch.special.ndtr(a), sum_event(0.5 * (a.square() - z.square()) - log_scale)

    def loss(
        self,
        model: Score,
        x: Tensor,
        *,
        levels: int = 256,
        data_range: Sequence[float] = (-1.0, 1.0),
        flow: ProbabilityFlow | None = None,
        divergence: str = "hutchinson",
        probes: int = 1,
        seed: int = 0,
        label: Condition | None = None,
    ) -> Tensor:
        """The bound on −log P, ``(B,)`` nats from one draw each, for training.

        Autograd goes back through the flow, also to the model. Call ``model.requires_grad_(False)``
        to skip the model's gradients. Give each step another ``seed``: z and the probes are drawn
        from it. Arguments and errors are those of :func:`sdescore.bits_per_dimension`.
        """
        flow = flow_of(model, flow, "a dequantization's loss")
        bins = Bins.of(levels, data_range)
        v, log_q = next(dequantized(x, bins, self, 1, seed, differentiable=True))
        found = flow.log_likelihood(
            model,
            v,
            divergence=divergence,
            probes=probes,
            seed=seed,
            label=label,
            differentiable=True,
        )
        return log_q - found.log_prob - math.prod(x.shape[1:]) * math.log(bins.width)
