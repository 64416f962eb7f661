r"""Energy-based models by maximum likelihood.

The likelihood of :math:`p_\theta = e^{f_\theta} / Z_\theta` has an unknown Z, but its gradient has
none (Song & Kingma 2021, arXiv:2101.03288, section 2):

.. math::
   \nabla_\theta\, E_{data}[-\log p_\theta(x)]
   = E_{p_\theta}[\nabla_\theta f_\theta(\tilde x)] - E_{data}[\nabla_\theta f_\theta(x)] ,

which is that of :func:`contrastive_divergence_loss` where the negatives :math:`\tilde x` come from
the model. Langevin chains (:func:`sdescore.langevin.chains`) make the negatives. The method is
named after the states from which the chains start:

===========================  ===================================================================
contrastive divergence       at the data, few steps (Hinton 2002, Neural Computation 14(8))
persistent (PCD)             where they ended: a replay buffer (Tieleman 2008, ICML)
with reinitialisation        the same, a share afresh (Du & Mordatch 2019, arXiv:1903.08689)
===========================  ===================================================================

:class:`sdescore.losses.ReplayBuffer` is that buffer.

What is fitted is the distribution of the *chain*. Short chains from the data are biased: with one
small step the fixed point is implicit score matching's (Hyvärinen 2007, "Connections between score
matching, contrastive divergence, and pseudolikelihood"). Unadjusted steps are biased however long
the chains are; ``method="mala"`` is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.losses.loss import Loss
from sdescore.losses.matching import matching
from sdescore.score.interface import log_density_of
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Time

__all__ = ["contrastive_divergence_loss"]


def contrastive_divergence_loss(
    model: object,
    x0: Tensor,
    negatives: Tensor,
    *,
    t: Time | None = None,
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
    penalty: float = 0.0,
) -> Loss:
    r"""``f(x̃) − f(x)``, whose gradient is that of the negative log-likelihood.

    Its value is not the likelihood and does not fall in training. A value near 0 means that the
    energy does not tell data and negatives apart.

    Parameters
    ----------
    model : EnergyModel, ScoreModel or object
        A score that knows its log density f, e.g. ``EnergyModel(net)``.
    x0 : Tensor
        Clean data ``(B, *E)``, B >= 1, finite.
    negatives : Tensor
        Samples of the model, at ``t`` where it is passed; like ``x0``. No gradient flows into them.
    t, weight, label, noise, generator, sde
        As in :func:`sdescore.losses.implicit_loss`. The likelihood has w(t) = 1.
    penalty : float
        c >= 0 of :math:`c\, (f(x)^2 + f(\tilde x)^2)`. This term keeps f near 0, because the
        constant of f is free (Du & Mordatch 2019, section 3.3).

    Raises
    ------
    IncompatibleError
        The score knows no log density, or needs a time and got none.
    ShapeError, TimeError, ParameterError
        A bad argument, or a log density that is not one scalar for each sample.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(-1))
    >>> ss.losses.contrastive_divergence_loss(energy, torch.zeros(1, 2), torch.ones(1, 2)).mean
    tensor(-1.)
    """
    log_density_of(model)  # refuses a score without
    checks.same_shape(negatives, x0, "negatives", "x0")
    penalty = checks.number("penalty", penalty, at_least=0)
    w = "sigma2" if t is None else plain
    score, x, factor = matching(model, x0, t, w, weight, label, noise, generator, sde)
    data, other = score.log_density(x), score.log_density(negatives.detach().to(x))
    per_sample = other - data
    if penalty > 0:
        per_sample = per_sample + penalty * (data.square() + other.square())
    return Loss.of(per_sample).weighted(factor)


def plain(sde: LinearSDE, t: Tensor) -> Tensor:
    """w = 1."""
    return torch.ones_like(t)
