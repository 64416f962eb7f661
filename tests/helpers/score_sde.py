"""score_sde's SDEs, scores and steps, written from its tables and times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.published import Network

BETA = 0.1, 20.0
SIGMA = 0.01, 50.0
network = Network()


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


class ScoreNetwork(Network):
    """The score as a VE network gives it, with its label rounded on a ladder, as NCSN++ does."""

    def __init__(self, dtype: torch.dtype, rounds: bool) -> None:
        super().__init__(dtype)
        self.rounds = rounds

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        c = c.round() if self.rounds else c
        return -super().forward(x, c) / (1 + c.reshape(-1, 1, 1)) ** 2


class Original:
    """The code's SDEs and scores: ``ve``, ``vp`` or ``subvp``; continuous, or on its tables."""

    def __init__(self, sde: str, N: int, continuous: bool = True) -> None:
        self.sde, self.N, self.continuous = sde, N, continuous
        self.betas = torch.linspace(BETA[0] / N, BETA[1] / N, N, dtype=torch.float64)
        logs = torch.linspace(*map(math.log, SIGMA), N, dtype=torch.float64)
        self.sigmas = logs.exp()

    def beta(self, t: float) -> float:
        return BETA[0] + t * (BETA[1] - BETA[0])

    def std(self, t: float) -> float:
        if self.sde == "ve":
            return SIGMA[0] * (SIGMA[1] / SIGMA[0]) ** t
        log_mean = -0.25 * t**2 * (BETA[1] - BETA[0]) - 0.5 * t * BETA[0]
        variance = -math.expm1(2 * log_mean)
        return math.sqrt(variance) if self.sde == "vp" else variance

    def score(self, x: Tensor, t: float) -> Tensor:
        if self.sde == "ve":
            label = self.std(t) if self.continuous else round((1 - t) * (self.N - 1))
            return -network(x, number(label)) / (1 + label) ** 2
        if self.continuous:
            return -network(x, number(999 * t)) / self.std(t)
        label = t * (self.N - 1)
        products = torch.cumprod(1 - self.betas, 0)
        return -network(x, number(label)) / (1 - products[int(label + 1e-9)]).sqrt()

    def f_and_g2(self, t: float) -> tuple[float, float]:
        if self.sde == "ve":
            return 0.0, 2 * math.log(SIGMA[1] / SIGMA[0]) * self.std(t) ** 2
        beta = self.beta(t)
        if self.sde == "vp":
            return -0.5 * beta, beta
        shrunk = math.exp(-2 * BETA[0] * t - (BETA[1] - BETA[0]) * t**2)
        return -0.5 * beta, beta * (1 - shrunk)

    def predict(self, name: str, x: Tensor, t: float, z: Tensor, flow: bool) -> list[Tensor]:
        """The state after a step, and its mean."""
        i, half = int(t * (self.N - 1) + 1e-9), 0.5 if flow else 1.0
        s = self.score(x, t)
        f, g2 = self.f_and_g2(t)
        mean, std = x - (f * x - half * g2 * s) / self.N, math.sqrt(g2 / self.N)
        if name == "reverse_diffusion" and self.sde == "ve":
            G2 = (self.sigmas[i] ** 2 - (self.sigmas[i - 1] ** 2 if i else 0)).item()
            mean, std = x + half * G2 * s, math.sqrt(G2)
        elif name == "reverse_diffusion" and self.sde == "vp":
            beta = self.betas[i].item()
            forward = math.sqrt(1 - beta) * x - x
            mean, std = x - forward + half * beta * s, math.sqrt(beta)
        elif name == "ancestral_sampling" and self.sde == "ve":
            high, low = self.sigmas[i].item() ** 2, self.sigmas[i - 1].item() ** 2 if i else 0.0
            mean, std = x + (high - low) * s, math.sqrt(low * (high - low) / high)
        elif name == "ancestral_sampling":
            beta = self.betas[i].item()
            mean, std = (x + beta * s) / math.sqrt(1 - beta), math.sqrt(beta)
        return [mean + (0.0 if flow else std) * z, mean]

    def correct(self, name: str, x: Tensor, t: float, snr: float, z: Tensor) -> Tensor:
        i = int(t * (self.N - 1) + 1e-9)
        alpha = 1.0 if self.sde == "ve" else 1 - self.betas[i].item()
        s = self.score(x, t)
        ratio = z.flatten(1).norm(dim=1).mean() / s.flatten(1).norm(dim=1).mean()
        step = 2 * alpha * (snr * (ratio.item() if name == "langevin" else self.std(t))) ** 2
        return x + step * s + math.sqrt(2 * step) * z


def model_of(sde: str, N: int, continuous: bool, dtype: torch.dtype) -> ss.ScoreModel:
    ends = {"sigma_min": SIGMA[0], "sigma_max": SIGMA[1]}
    if sde == "ve" and continuous:
        own: ss.LinearSDE = ss.VESDE(**ends)
        return ss.ScoreModel(ScoreNetwork(dtype, False), own, "score", "sigma")
    if sde == "ve":
        own = ss.DiscreteVESDE.geometric(**ends, levels=N)
        return ss.ScoreModel(ScoreNetwork(dtype, True), own, "score", "continuous_level")
    network = Network(dtype)
    if not continuous:
        own = ss.DiscreteVPSDE.linear(N, BETA[0] / N, BETA[1] / N)
        return ss.ScoreModel(network, own, "epsilon", "continuous_level")
    kind = ss.VPSDE if sde == "vp" else ss.SubVPSDE
    return ss.ScoreModel(network, kind(beta_min=BETA[0], beta_max=BETA[1]), "epsilon", "999t")
