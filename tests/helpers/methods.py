"""All methods of the package, and some as a user would write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import sdescore as ss
from sdescore.rooms import members

# Whatever is in the rooms: a file that is put there is tested by being there.
PREDICTORS = [p for kind in members("sdescore.predictors", ss.Predictor) for p in kind.examples()]
CORRECTORS = [c for kind in members("sdescore.correctors", ss.Corrector) for c in kind.examples()]


@dataclass(frozen=True)
class Heun(ss.Predictor):
    """Heun's method on the probability flow: two stages in score form."""

    order: ClassVar[int] = 2

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        t, s = times[:-1], times[1:]
        h = t - s
        (f_t, g2_t), (f_s, g2_s) = sde.rates(t), sde.rates(s)
        euler_a, euler_b = 1 - f_t * h, 0.5 * g2_t * h
        zero = torch.zeros_like(t)
        a = torch.stack([euler_a, 1 - 0.5 * h * (f_t + f_s * euler_a)], 1)
        second = torch.stack([0.25 * h * g2_s, 0.25 * h * g2_t - 0.5 * h * f_s * euler_b], 1)
        b = torch.stack([torch.stack([euler_b, zero], 1), second], 1)
        return ss.Tableau(torch.stack([t, s], 1), a, b, torch.zeros(len(t), 2, 0), "score")


@dataclass(frozen=True)
class Multistep(ss.Predictor):
    """Exponential Adams–Bashforth in log-SNR on x₀ (DPM-Solver++(2M), Lu et al. 2022).

    ``x₀`` is extrapolated linearly in λ from the last two outputs; the first step has one.
    """

    output: str = "x0"
    order: ClassVar[int] = 2

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        (alpha, sigma), half = sde.marginal(times), 0.5 * sde.log_snr(times)
        h = half.diff()
        ratio = torch.zeros_like(h)
        ratio[1:] = 0.5 * h[1:] / h[:-1]
        if self.output == "x0":
            a, gain = sigma[1:] / sigma[:-1], -alpha[1:] * torch.expm1(-h)
        else:
            a, gain = alpha[1:] / alpha[:-1], -sigma[1:] * torch.expm1(h)
        b = torch.stack([gain * (1 + ratio), -gain * ratio], -1)[:, None]
        return ss.Tableau(times[:-1, None], a[:, None], b, torch.zeros(len(h), 1, 0), self.output)
