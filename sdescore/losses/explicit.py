r"""Explicit score matching: the Fisher divergence itself, where the data's score is known.

.. math:: J_{ESM}(\theta) = \tfrac12\, E_p \|s_\theta(x) - \nabla \log p(x)\|^2

(Hyvärinen 2005, JMLR 6, section 2). The target is known for exact scores, and for a kernel density
estimate. Vincent 2011 (Neural Computation 23(7), section 4) puts the score of this estimate in
place of the data's. The estimate

.. math:: p_h(x) = \frac1n \sum_j N(x;\, y_j, h^2 I)

(Parzen 1962) is the density of a datum plus noise of standard deviation h, so its score is that of
:class:`sdescore.EmpiricalScore` at one noise level. Two rules give h from the data's standard
deviation :math:`s = \sqrt{\operatorname{tr} \mathrm{Cov}/d}`,

.. math::
   h_{Scott} = s\, n^{-1/(d + 4)}, \qquad
   h_{Silverman} = s\, \Bigl(\frac{4}{n\,(d + 2)}\Bigr)^{1/(d + 4)}

(Scott 1992, "Multivariate density estimation", chapter 6; Silverman 1986, "Density estimation",
chapter 4), both optimal for the *density* of a Gaussian as n → ∞. A score's best h is larger than a
density's. Neither rule is any good in many dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.losses.loss import Loss
from sdescore.losses.matching import matching
from sdescore.losses.weighting import Weighting
from sdescore.score.empirical import EmpiricalScore
from sdescore.sde.edm import EDMSDE
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import flat, sum_event
from sdescore.typing import Condition, Time

__all__ = ["KernelDensityScore", "explicit_loss", "kernel_density_score"]


def explicit_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    target: Tensor | Callable[..., Tensor],
    *,
    t: Time | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
) -> Loss:
    r"""``½ ‖s(x) − target‖²``, summed over the event.

    Parameters
    ----------
    model, x0, t, weighting, weight, label, noise, generator, sde
        As in :func:`sdescore.losses.implicit_loss`.
    target : Tensor or callable
        The score to match. A tensor is like ``x0``; if ``t`` is passed, it is the score at the
        noised data. A function is called like the model, with the state and the time if any, but
        without labels and without gradients.

    Raises
    ------
    ShapeError, TimeError, ParameterError, IncompatibleError
        A bad argument, or a score or target that is not like ``x0``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> ss.losses.explicit_loss(lambda x: -x / 4, torch.ones(3, 2), lambda x: -x).mean.item()
    0.5625
    """
    if isinstance(target, Tensor):
        checks.same_shape(target, x0, "target", "x0")
    else:
        checks.function("target", target)
    score, x, factor = matching(model, x0, t, weighting, weight, label, noise, generator, sde)
    if isinstance(target, Tensor):
        wanted = target.to(x.device)
    else:
        with torch.no_grad():
            wanted = checks.score_output(target(x.clone(), *score.arguments[:1]), x, "the target")
    working = torch.promote_types(x.dtype, torch.float32)
    error = score(x).to(working) - wanted.to(working)
    return Loss.of(0.5 * sum_event(error.square())).weighted(factor)


@dataclass(frozen=True, eq=False)
class KernelDensityScore:
    """``∇ log p_h`` for h = ``bandwidth``, without time; made by :func:`kernel_density_score`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.losses.kernel_density_score(torch.tensor([[0.0], [4.0]]), "silverman")
    >>> round(score.bandwidth, 2)
    2.61
    >>> x = torch.tensor([[0.0], [2.0], [20.0]])
    >>> bool(score.log_prob(x)[2] < score.log_prob(x)[0])
    True
    """

    bandwidth: float
    _empirical: EmpiricalScore = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """The score at ``x`` ``(B, *E)``, like it."""
        return self._empirical(x, self.bandwidth)

    def log_prob(self, x: Tensor) -> Tensor:
        """``log p_h(x)`` in nats, ``(B,)``."""
        return self._empirical.log_prob(x, self.bandwidth)


def kernel_density_score(data: Tensor, bandwidth: float | str = "scott") -> KernelDensityScore:
    """The score of the Gaussian kernel density estimate of ``data``.

    Parameters
    ----------
    data : Tensor
        ``(n, *E)``, finite, n >= 1.
    bandwidth : float or str
        h > 0, or the rule ``"scott"`` or ``"silverman"``, which need data that vary.

    Raises
    ------
    ShapeError, ParameterError
        Bad data, or a bandwidth that is not positive.
    IncompatibleError
        An unknown rule.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.losses.kernel_density_score(torch.tensor([[-1.0], [1.0]]), bandwidth=2.0)
    >>> score(torch.tensor([[0.0]])).abs()
    tensor([[0.]])
    """
    if isinstance(data, Tensor):
        checks.finite_tensor("data", data)
    if isinstance(bandwidth, str):
        checks.choice("bandwidth", bandwidth, ("scott", "silverman"))
        bandwidth = rule_bandwidth(data, bandwidth)
        checks.that(bandwidth > 0, "data that vary, for a rule's bandwidth", "data that do not")
    h = checks.number("bandwidth", bandwidth, above=0)
    # On this SDE x_t = x_0 + t ε, so its density at t = h is the estimate.
    return KernelDensityScore(h, EmpiricalScore(data, EDMSDE(sigma_min=h / 2, sigma_max=h)))


def rule_bandwidth(data: Tensor, rule: str) -> float:
    """The bandwidth that a rule finds for ``data`` ``(n, *E)``; 0 for data that do not vary."""
    if not isinstance(data, Tensor) or data.ndim < 1 or len(data) < 2 or data.numel() == 0:
        got = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
        checks.refuse("at least two samples (n, *E) to choose a bandwidth", got, ShapeError)
    rows = flat(data)
    n, d = rows.shape
    few = max(1, 2**20 // n)  # columns at a time: a float64 copy of all would take twice the memory
    variances = [part.double().var(0).sum().item() for part in torch.split(rows, few, 1)]
    std = math.sqrt(math.fsum(variances) / d)
    factor = 1 / n if rule == "scott" else 4 / (n * (d + 2))
    return std * math.pow(factor, 1 / (d + 4))
