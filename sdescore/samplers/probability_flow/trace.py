"""How a likelihood finds the divergence along its path: exactly, or by fixed probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.samplers.probability_flow.likelihood import LogLikelihood, standard_error, t_quantile
from sdescore.samplers.probability_flow.velocity import Selection
from sdescore.score.divergence import (
    PROBE_DISTRIBUTIONS,
    deflated_traces,
    exact_trace,
    probe_traces,
    probes_from_normal,
)
from sdescore.shapes import align

DIVERGENCES = ("exact", "hutchinson", "hutch++")

Divergence = Callable[[Tensor, Tensor, Tensor, Selection], Tensor]
"""``(o, y, μ, present) -> (B, K)``: K estimates of the ∇·o of these samples, o made from ``y``. The
denoiser's Jacobian is a multiple of ``∇o − μ I``; μ is ``(B, 1)`` or ``(1, 1)``."""


@dataclass(frozen=True)
class Trace:
    """How :meth:`sdescore.ProbabilityFlow.log_likelihood` finds its divergences."""

    divergence: str
    probes: int | Tensor
    probe_distribution: str
    seed: int
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        checks.choice("divergence", self.divergence, DIVERGENCES)
        checks.choice("probe_distribution", self.probe_distribution, PROBE_DISTRIBUTIONS)
        vars(self).update(seed=checks.seed(self.seed))
        if self.chunk_size is not None:
            vars(self).update(chunk_size=checks.count("chunk_size", self.chunk_size))
        if not isinstance(self.probes, Tensor):
            vars(self).update(probes=checks.count("probes", self.probes))
        elif self.divergence == "exact":
            expected = 'divergence="hutchinson" or "hutch++" for probes of your own'
            checks.refuse(expected, 'divergence="exact"', IncompatibleError)

    @property
    def count(self) -> int:
        """The number of probes."""
        return len(self.probes) if isinstance(self.probes, Tensor) else self.probes

    @property
    def estimates(self) -> int:
        """K, the number of estimates per sample."""
        if self.divergence == "exact":
            return 1
        K = self.count
        return K if self.divergence == "hutchinson" else K - 2 * (K // 3)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse probes of one's own that are not finite numbers ``(K, *shape)``."""
        if isinstance(self.probes, Tensor):
            got = tuple(self.probes.shape)
            fits = len(got) > 0 and got[0] > 0 and got[1:] == shape
            checks.that(fits, f"probes of shape (K, {str(shape)[1:]}", got, ShapeError)
            checks.finite_tensor("probes", self.probes)
        if self.divergence == "hutch++":
            d, K = math.prod(shape[1:]), self.count
            expected = (
                f'3 <= probes < {d} for "hutch++" (the exact divergence takes {d} derivatives)'
            )
            checks.that(3 <= K < d, expected, f"probes={K}")

    def of(self, samples: range, x: Tensor) -> Divergence:
        """The rule for these samples, fixed probes and all; ``x`` ``(B, *E)`` is their state."""
        # PyTorch cannot take several derivatives of a network under autocast at a time.
        chunk = 1 if torch.is_autocast_enabled(x.device.type) else self.chunk_size
        graph = torch.is_grad_enabled()
        if self.divergence == "exact":
            return lambda o, y, _, __: exact_trace(
                o, y, chunk_size=chunk, create_graph=graph
            ).unsqueeze(1)
        if isinstance(self.probes, Tensor):
            probes = self.probes[:, samples.start : samples.stop].to(x)
        else:
            shape = x.shape[1:]
            stream = NormalStream(self.seed, samples, shape, device=x.device, domain=Domain.TRACE)
            probes = stream.draw(range(self.probes)).to(x)
            if self.divergence == "hutchinson":
                probes = probes_from_normal(self.probe_distribution, probes)
        if self.divergence == "hutch++":
            k = len(probes) // 3
            sketch, rest = probes[:k], probes[2 * k :]
            return lambda o, y, shift, present: deflated_traces(
                o,
                y,
                sketch[:, present],
                rest[:, present],
                align(shift.squeeze(1), y),
                chunk_size=chunk,
                create_graph=graph,
            )
        return lambda o, y, _, present: probe_traces(
            o, y, probes[:, present], chunk_size=chunk, create_graph=graph
        )

    def likelihood(
        self,
        latent: Tensor,
        integrals: Tensor,
        prior_std: float,
        log_volume: float,
        evaluations: Tensor,
    ) -> LogLikelihood:
        """What the states at T ``(B, *E)`` and the K integrals ``(B, K)`` say of the data, whose
        unit has ``log_volume`` nats among states."""
        log_det = integrals.mean(1) - log_volume
        numel = math.prod(latent.shape[1:])
        squares = latent.reshape(len(latent), numel).div(prior_std).square().sum(1)
        prior = -0.5 * squares - numel * (math.log(prior_std) + 0.5 * math.log(2 * math.pi))
        error = margin = torch.zeros_like(log_det)
        # In d = 1 the probes ±1 are exact.
        own = isinstance(self.probes, Tensor) or self.probe_distribution == "gaussian"
        if self.divergence != "exact" and (numel > 1 or own):
            error = standard_error(integrals)
            # One estimate knows no error: both are NaN.
            margin = error * t_quantile(self.estimates - 1) if self.estimates > 1 else error
        return LogLikelihood(prior + log_det, error, margin, latent, log_det, evaluations)
