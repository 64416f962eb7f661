"""azula's methods on the problems of benchmarks/posterior.py: its VP schedule, as many steps.

Each method gets what its authors advise: the noise's variance, the pseudo-inverse for ΠGDM, the
mask for RePaint, ten iterations of the solver for MMPS as for ours. DPS divides by the norm of the
whole batch's residual; its strength is √n here, so that a sample gets what it would get alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any

import torch
from azula import guidance, sample
from azula.denoise import Denoiser, DiracPosterior
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import VPSchedule
from posterior_problems import STEPS, Method, Problem, Unable
from torch import Tensor


class Scheduled:
    """azula's schedule as an object with a marginal."""

    def __init__(self) -> None:
        self.schedule = VPSchedule()

    def marginal(self, t: Any) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = self.schedule(t)
        return alpha, sigma


class Exact(Denoiser):
    """The exact denoiser of the prior."""

    def __init__(self, counted: Any) -> None:
        super().__init__()
        self.schedule, self.counted = VPSchedule(), counted
        self.exact = counted.score.under(Scheduled())

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
        self.counted.calls += 1
        return DiracPosterior(mean=self.exact.denoise(x_t, t))


def told(task: Problem) -> tuple[Tensor, Callable[[Tensor], Tensor], float]:
    """y, A on flat states and the noise's variance."""
    A = task.measurement.operator
    return task.measurement.y.float(), lambda x: A(x).flatten(1), task.measurement.noise_std**2


def method(make: Callable[[Exact, Problem, int], Any]) -> Method:
    """A method that makes a sampler of a denoiser, a problem and a number of draws."""

    def run(task: Problem, n: int, seed: int) -> tuple[Tensor, None]:
        torch.manual_seed(seed)
        sampler = make(Exact(task.prior), task, n)
        return sampler(sampler.init((n, *task.measurement.operator.event_shape))), None

    return run


def denoiser(kind: Any, **options: Any) -> Callable[[Exact, Problem, int], Any]:
    """A method that is a denoiser, sampled by DDPM."""

    def make(exact: Exact, task: Problem, n: int) -> Any:
        y, A, variance = told(task)
        noise = "cov_y" if kind is guidance.MMPSDenoiser else "var_y"
        value = IsotropicCovariance(variance) if noise == "cov_y" else variance
        posterior = kind(exact, y=y.expand(n, -1), A=A, **{noise: value}, **options)
        return sample.DDPMSampler(posterior, steps=STEPS, silent=True)

    return make


def dps(exact: Exact, task: Problem, n: int) -> Any:
    y, A, _ = told(task)
    return guidance.DPSSampler(exact, y, A, zeta=math.sqrt(n), steps=STEPS, silent=True)


def pigdm(exact: Exact, task: Problem, n: int) -> Any:
    if task.matrix is None:
        raise Unable
    y, A, _ = told(task)
    inverse = torch.linalg.pinv(task.matrix).float()
    options = {"eta": 1.0, "steps": STEPS, "silent": True}
    return guidance.PGDMSampler(exact, y, A, lambda v: v @ inverse.T, **options)


def repaint(exact: Exact, task: Problem, n: int) -> Any:
    A = task.measurement.operator
    if type(A).__name__ != "Mask":
        raise Unable
    y = A.adjoint(task.measurement.y[None].float())[0]
    mask = A.adjoint(torch.ones(1, *A.measurement_shape))[0] > 0
    options = {"iterations": 3, "eta": 1.0, "steps": STEPS, "silent": True}
    return guidance.RePaintSampler(exact, y, mask, **options)


def tds(exact: Exact, task: Problem, n: int) -> Any:
    y, A, variance = told(task)

    def twist(x: Tensor, noise_ratio: Tensor) -> Tensor:
        total = variance + noise_ratio**2 / (1 + noise_ratio**2)
        return -0.5 * ((y - A(x)).square() / total + torch.log(total))

    return guidance.TDSSampler(exact, twist, steps=STEPS, silent=True)


AZULAS: dict[str, Method] = {
    "azula DPS": method(dps),
    "azula ΠGDM": method(pigdm),
    "azula MMPS": method(denoiser(guidance.MMPSDenoiser, iterations=10)),
    "azula TMPD": method(denoiser(guidance.TMPDenoiser)),
    "azula DiffPIR": method(denoiser(guidance.DiffPIRDenoiser)),
    "azula RePaint": method(repaint),
    "azula TDS": method(tds),
}


def version() -> str:
    """azula's version."""
    return version_of("azula")
