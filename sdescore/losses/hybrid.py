r"""The loss that learns DDPM's variance together with its prediction.

The network also predicts v, the share of the larger variance (:class:`sdescore.Ancestral`,
``variance="learned_range"``). The loss of a sample at level i of N is

.. math:: \ell = \tfrac12 \|\hat\epsilon - \epsilon\|^2 + \frac{c N}{2 \ln 2}\, L_i ,

:math:`L_i` the term of the variational bound (:mod:`sdescore.samplers.variational_bound`), in
nats and summed over the sample. In :math:`L_i` x̂₀ is a constant, so it trains v alone (Nichol &
Dhariwal 2021, arXiv:2102.09672, eq. 16, with c = 0.001). Their code takes means over the
d elements, and L in bits, so ℓ is d/2 times its loss.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, TimeError
from sdescore.losses.denoising import add_noise
from sdescore.losses.loss import Loss
from sdescore.samplers.variational_bound import Bins, Steps, divergence, log_probability
from sdescore.score.model import ScoreModel
from sdescore.score.variance import output_with_variance, require_variance
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import sum_event
from sdescore.typing import Condition, Time

__all__ = ["hybrid_loss"]


def hybrid_loss(
    model: ScoreModel,
    x0: Tensor,
    *,
    t: Time | None = None,
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
    levels: int | None = None,
    data_range: tuple[float, float] = (-1.0, 1.0),
    bound_weight: float = 0.001,
) -> Loss:
    """The simple loss of DDPM and a small part of its variational bound, which trains v.

    Pass it to :func:`sdescore.train` as ``objective=``.

    Parameters
    ----------
    model : ScoreModel
        On :class:`sdescore.DiscreteVPSDE`; its network has a method ``with_variance``, as
        :class:`sdescore.nets.ADM` and :class:`sdescore.nets.LearnedVariance` have.
    x0, weight, label, noise, generator, sde
        As in :func:`sdescore.denoising_loss`.
    t : float or Tensor, optional
        Times of levels, ``()`` or ``(B,)``; by default drawn uniformly among all.
    levels : int, optional
        The data are so many integers, >= 2, scaled to ``data_range``; 256 for 8-bit images. The
        lowest level then has the decoder's term. Without it, the lowest level has none.
    data_range : (float, float)
        What 0 and levels − 1 were scaled to.
    bound_weight : float
        c >= 0.

    Raises
    ------
    IncompatibleError
        The network has no variance, or the SDE is no DiscreteVPSDE of two levels or more; or as
        :func:`sdescore.denoising_loss`, whose other errors it raises too.
    TimeError
        A time is not the time of a level.
    ParameterError
        With ``levels``, data at the lowest level are no such integers.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> class Net(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Conv2d(1, 2, 3, padding=1)
    ...
    ...     def forward(self, x, level):
    ...         return self.layer(x)
    >>> net = ss.nets.LearnedVariance(Net())
    >>> model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), "epsilon", "continuous_level")
    >>> loss = ss.losses.hybrid_loss(model, torch.zeros(4, 1, 8, 8))
    >>> loss.per_sample.shape
    torch.Size([4])
    """
    checks.instance("model", model, ScoreModel, "ss.ScoreModel(net, sde)")
    require_variance(model.net)
    table: Any = model.sde
    convention = model.convention
    if len(getattr(table, "betas", ())) < 2 or convention is None:
        expected = "a plain ScoreModel on DiscreteVPSDE with two levels or more"
        checks.refuse(expected, f"{type(model).__name__} on {table!r:.200}", IncompatibleError)
    factor = checks.number("bound_weight", bound_weight, at_least=0)
    bins = None if levels is None else Bins.of(levels, data_range)

    noised = add_noise(model, x0, t, None, "sigma2", weight, label, noise, generator, sde)
    level = table.level(noised.t)
    i = level.round().long()
    if not bool(((level == i) & (i >= 0)).all()):
        got = f"t = {noised.t[(level != i) | (i < 0)][0].item():g}"
        got = f"{got}; use sde.level_times(), and train(times=ss.losses.LevelTimes())"
        checks.refuse("times of levels", got, TimeError)
    numbers = convention.at(noised.t, marginal=(noised.alpha, noised.sigma))
    y, v = output_with_variance(model, noised.x, numbers, label)

    def each(number: Tensor) -> Tensor:
        return number.to(y).reshape(-1, *(1,) * (y.ndim - 1))

    # Of y that estimates p x₀ + q ε, at an x_t that is known.
    (p, q), (alpha, sigma) = numbers.pair, (noised.alpha, noised.sigma)
    D = alpha * q - sigma * p
    error = y - (each(p) * noised.x0 + each(q) * noised.noise)
    simple = 0.5 * (each(torch.where(p == 0, 1 / q, alpha / D)) * error).square()
    x0_error = (each(-sigma / D) * error).detach()

    steps, e = Steps.of(table), 0.5 * (1 - v)
    log_ratio, gain = (each(number.to(i.device)[i]) for number in (steps.log_ratio, steps.gain))
    terms = divergence(x0_error.square(), e, log_ratio, gain)
    lowest = i == 0
    if bool(lowest.any()):
        decoder = torch.zeros_like(terms[lowest])
        if bins is not None:
            bins.require(x0[lowest])
            lower, upper = (model.from_data(edge) for edge in bins.edges(x0[lowest]))
            mean = noised.x0[lowest] + x0_error[lowest]
            decoder = -log_probability(lower, upper, mean, steps.log_std(e[lowest])).to(terms)
        terms = terms.index_put((lowest,), decoder)
    scale = factor * table.levels / (2 * math.log(2))
    return Loss.of(noised.weight.to(y) * sum_event(simple + scale * terms))
