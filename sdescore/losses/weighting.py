r"""Weightings :math:`w(t)` of the squared score error: functions ``(sde, t) -> w``.

Papers put their weight on the error of the score, of ε or of x₀. These errors differ only by a
factor,

.. math:: \sigma^2 \|s - \nabla \log p\|^2 = \|\hat\epsilon - \epsilon\|^2
   = \mathrm{SNR}\, \|\hat x_0 - x_0\|^2, \qquad \mathrm{SNR} = \frac{\alpha^2}{\sigma^2} ,

so a weight v of the x₀ error is :math:`w = v\,\sigma^2/\mathrm{SNR}` here, and
:math:`(\sigma^2/\alpha)^2` weighs x₀ evenly:

====================  ==============================  ===================  ====================
weighting             w, of the score error           of the ε error       of the x₀ error
====================  ==============================  ===================  ====================
``"sigma2"``          σ²                              1                    SNR
``"likelihood"``      g²                              g²/σ²                g² SNR/σ²
``MinSNR(γ)``         σ² min(1, γ/SNR)                min(1, γ/SNR)        min(SNR, γ)
``EDMWeighting(c)``   σ² (1 + 1/(c² SNR))             1 + 1/(c² SNR)       SNR + 1/c²
====================  ==============================  ===================  ====================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64

__all__ = ["EDMWeighting", "MinSNR", "Weighting", "likelihood", "sigma2"]

Weighting: TypeAlias = Callable[[LinearSDE, Tensor], Tensor]
"""``(sde, t) -> w(t)``; ``t`` and w are ``(B,)``, w >= 0."""


def sigma2(sde: LinearSDE, t: Tensor) -> Tensor:
    r""":math:`w = \sigma_t^2`: every time has the same weight in ε.

    NCSN's choice (Song & Ermon 2019, arXiv:1907.05600, section 4.2) and, written in ε, that of
    DDPM's simple loss (Ho et al. 2020, arXiv:2006.11239, eq. 14).

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> ss.losses.sigma2(ss.EDMSDE(), torch.tensor([3.0])).item()
    9.0
    """
    return sde.marginal(t)[1].square()


def likelihood(sde: LinearSDE, t: Tensor) -> Tensor:
    r""":math:`w = g(t)^2`: a bound on the model's negative log-likelihood.

    Song et al. 2021, arXiv:2101.09258, theorem 1. On a VP SDE the error in ε has the weight
    g²/σ² ≈ 1/t towards the data, so with uniform times the mean of a batch is noisier than with
    :func:`sigma2`. :class:`sdescore.losses.ImportanceTimes` removes that noise and nothing else.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> ss.losses.likelihood(ss.VPSDE(), torch.tensor([0.0])).item()  # g² = β_min at t = 0
    0.1
    """
    return sde.rates(t)[1]


@dataclass(frozen=True)
class MinSNR:
    r"""The weight :math:`\min(\mathrm{SNR}, \gamma)` on the x₀ error.

    Hang et al. 2023, arXiv:2303.09556, section 3.4; here
    :math:`w = \sigma^2 \min(1, \gamma\sigma^2/\alpha^2)`, so times with SNR >= γ, near the
    data, count for less than under :func:`sigma2`. The SNR, and so γ, is meant for data of unit
    scale.

    Parameters
    ----------
    gamma : float
        γ > 0; the paper's 5.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = torch.tensor([0.25, 1.0], dtype=torch.float64)  # on this SDE SNR = 1/t²
    >>> weight = ss.losses.MinSNR(gamma=4.0)(ss.EDMSDE(), t)
    >>> (weight / t**2).tolist()  # of the ε error: min(1, 4 t²)
    [0.25, 1.0]
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        vars(self).update(gamma=checks.number("gamma", self.gamma, above=0))

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        alpha_t, sigma_t = sde.marginal(t)
        return sigma_t.square() * (self.gamma * (sigma_t / alpha_t).square()).clamp(max=1.0)


@dataclass(frozen=True)
class EDMWeighting:
    r"""EDM's weight of the x₀ error, under which the target of F has unit weight.

    Karras et al. 2022, arXiv:2206.00364, table 1, with its noise level :math:`\sigma/\alpha`
    here, and :math:`c = \sigma_{data}`:

    .. math:: v = \frac{(\sigma/\alpha)^2 + c^2}{(c\,\sigma/\alpha)^2}, \qquad
       w = \sigma^2 \Bigl(1 + \frac{\sigma^2}{c^2 \alpha^2}\Bigr) .

    The paper draws its times from :class:`sdescore.losses.LogNormalTimes`; its loss is twice ours.

    Parameters
    ----------
    sigma_data : float
        Standard deviation of the data, > 0.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = torch.tensor([0.5, 1.0], dtype=torch.float64)
    >>> ss.losses.EDMWeighting(sigma_data=0.5)(ss.EDMSDE(), t).tolist()
    [0.5, 5.0]
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        vars(self).update(sigma_data=checks.number("sigma_data", self.sigma_data, above=0))

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        alpha_t, sigma_t = sde.marginal(t)
        return sigma_t.square() * (1 + (sigma_t / (self.sigma_data * alpha_t)).square())


NAMED: dict[str, Weighting] = {"sigma2": sigma2, "likelihood": likelihood}


def named_weighting(weighting: str | Weighting) -> Weighting:
    """The weighting of that name, or the callable itself; a class is refused."""
    if isinstance(weighting, str) and weighting in NAMED:
        return NAMED[weighting]
    if isinstance(weighting, str | type) or not callable(weighting):
        names = ", ".join(map(repr, NAMED))
        expected = f"weighting among {names} or a function (sde, t) -> w such as MinSNR()"
        checks.refuse(expected, repr(weighting), IncompatibleError)
    return weighting


def one_per_time(name: str, value: object, t: Tensor) -> Tensor:
    """A weight at times ``(B,)``, refused unless there is a finite one, >= 0, for each time."""
    if not isinstance(value, Tensor) or value.shape != t.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        checks.refuse(f"one {name} per time, a tensor {tuple(t.shape)}", got, ShapeError)
    return per_sample_number(name, value, t)


def per_sample_number(
    name: str, value: float | Tensor, x: Tensor, *, positive: bool = False
) -> Tensor:
    """A number >= 0 for all samples or one for each, ``()`` or ``(B,)`` float64 beside ``x``."""
    if not isinstance(value, Tensor):
        least, above = (None, 0.0) if positive else (0.0, None)
        return float64(checks.number(name, value, at_least=least, above=above), like=x)
    expected = f"{name} as a number or one per sample, ({len(x)},)"
    fits = checks.dense(name, value).shape in ((), x.shape[:1])
    checks.that(fits, expected, tuple(value.shape), ShapeError)
    inside = value > 0 if positive else value >= 0
    if not bool((inside & value.isfinite()).all()):
        expected = f"0 {'<' if positive else '<='} {name} < ∞"
        checks.refuse(expected, f"values in [{value.min().item():g}, {value.max().item():g}]")
    # A tensor of inference mode cannot enter autograd; its copy can.
    return float64(value.clone() if value.is_inference() else value, like=x)
