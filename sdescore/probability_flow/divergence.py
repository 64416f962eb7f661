r"""The divergence of a score by autograd, exact or Hutchinson's estimate.

.. math:: \nabla \cdot s = \operatorname{tr} \nabla s
   = E[v^\top \nabla s\, v], \qquad E[v v^\top] = I

(Hutchinson 1990, "A stochastic estimator of the trace"; Grathwohl et al. 2019,
arXiv:1810.01367, eq. 7). With S the symmetric part of :math:`\nabla s`, one probe's variance is
:math:`2 \sum_{i \ne j} S_{ij}^2` for Rademacher probes and :math:`2 \lVert S \rVert_F^2` for
Gaussian ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.rng import NormalStream
from sdescore.sde.base import require

__all__ = ["Divergence", "Trace"]

# Domain of the probes: independent of a sampler's noise of the same seed.
_DOMAIN = 3

DIVERGENCES = ("exact", "hutchinson")
PROBE_LAWS = ("rademacher", "gaussian")

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``(score, x) -> (B, K)``: K estimates of each sample's ∇·s, the score made from ``x``."""


@dataclass(frozen=True)
class Trace:
    """How a likelihood finds its divergences.

    Parameters
    ----------
    divergence : {"exact", "hutchinson"}
        d derivatives per evaluation, or one per probe.
    probes : int
        K >= 1.
    probe_law : {"rademacher", "gaussian"}
        The law of the probes.
    seed : int
        Sample ``i`` uses probes (seed, i).

    Raises
    ------
    IncompatibleError
        An unknown divergence or law.
    ScheduleError
        ``probes`` is no positive integer, or ``seed`` no integer.
    """

    divergence: str
    probes: int
    probe_law: str
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in (("divergence", DIVERGENCES), ("probe_law", PROBE_LAWS)):
            value = getattr(self, name)
            if value not in allowed:
                raise IncompatibleError(
                    f"expected {name} among {', '.join(allowed)}; got {value!r}"
                )
        whole = isinstance(self.probes, int) and not isinstance(self.probes, bool)
        seeded = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        require(seeded, "an integer seed", f"{self.seed!r}")
        require(whole and self.probes >= 1, "probes >= 1", f"probes={self.probes!r}")

    @property
    def estimates(self) -> int:
        """K, the number of estimates per sample."""
        return 1 if self.divergence == "exact" else self.probes

    def of(self, samples: range, x: Tensor) -> Divergence:
        """The rule for these samples, fixed probes and all; ``x`` ``(B, *E)`` is their state."""
        if self.divergence == "exact":
            return exact
        stream = NormalStream(self.seed, samples, x.shape[1:], device=x.device, domain=_DOMAIN)
        v = stream.draw(range(self.probes)).to(x)
        return hutchinson(v if self.probe_law == "gaussian" else rademacher(v))

    def average(self, integrals: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the estimates ``(B, K)`` and its standard error, both ``(B,)``."""
        mean = integrals.mean(1)
        if self.divergence == "exact":
            return mean, torch.zeros_like(mean)
        if self.probes == 1:
            return mean, torch.full_like(mean, math.nan)
        return mean, integrals.std(1) / math.sqrt(self.probes)


def exact(s: Tensor, x: Tensor) -> Tensor:
    """``∇·s``, ``(B, 1)``, by one reverse derivative per element."""
    elements = s.reshape(len(s), math.prod(s.shape[1:])).unbind(1)
    derivatives = [
        pullback(element.sum(), x, None).reshape(len(x), -1)[:, i]
        for i, element in enumerate(elements)
    ]
    return torch.stack(derivatives).sum(0).unsqueeze(1)


def hutchinson(probes: Tensor) -> Divergence:
    """``vᵀ ∇s v`` for each probe of ``(K, B, *E)``: the estimates ``(B, K)``."""

    def estimates(s: Tensor, x: Tensor) -> Tensor:
        products = [(pullback(s, x, v) * v).reshape(len(x), -1).sum(1) for v in probes]
        return torch.stack(products, 1)

    return estimates


def pullback(output: Tensor, x: Tensor, cotangent: Tensor | None) -> Tensor:
    """The derivative of ``⟨cotangent, output⟩`` in ``x``, like ``x``.

    Raises
    ------
    IncompatibleError
        Autograd does not see how the output depends on ``x``.
    """
    gradient = None
    if output.requires_grad:
        (gradient,) = torch.autograd.grad(
            output, x, cotangent, retain_graph=True, allow_unused=True
        )
    if gradient is None:
        raise IncompatibleError(
            "expected a score that autograd can differentiate in x, got one without a gradient; "
            "a likelihood needs it: compute the score with torch, without detach() or no_grad()"
        )
    return gradient


def rademacher(normal: Tensor) -> Tensor:
    """The signs of normal numbers, ±1 with equal chances."""
    return torch.where(normal < 0, -1.0, 1.0).to(normal)
