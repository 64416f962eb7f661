"""How a likelihood finds its divergences, with probes fixed for the whole solve.

The derivatives and the probes' laws are those of :mod:`sdescore.score.divergence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.checks import require
from sdescore.errors import IncompatibleError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.score.divergence import PROBE_LAWS, exact_trace, probe_traces, probes_from_normal

DIVERGENCES = ("exact", "hutchinson")

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
    probe_law : {"rademacher", "gaussian", "sphere"}
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
            return lambda s, x: exact_trace(s, x).unsqueeze(1)
        stream = NormalStream(self.seed, samples, x.shape[1:], device=x.device, domain=Domain.TRACE)
        probes = probes_from_normal(self.probe_law, stream.draw(range(self.probes)).to(x))
        return lambda s, x: probe_traces(s, x, probes)

    def average(self, integrals: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the estimates ``(B, K)`` and its standard error, both ``(B,)``."""
        mean = integrals.mean(1)
        if self.divergence == "exact":
            return mean, torch.zeros_like(mean)
        if self.probes == 1:
            return mean, torch.full_like(mean, math.nan)
        return mean, integrals.std(1) / math.sqrt(self.probes)
