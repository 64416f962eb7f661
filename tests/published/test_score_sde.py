"""The samplers of score_sde against its algorithm, written as a loop from its tables and times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.published import Network, difference, draw, noises

Score = Callable[[Tensor, float], Tensor]
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
        return -super().forward(x, c) / (1 + c.reshape(-1, 1, 1))


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
            return -network(x, number(label)) / (1 + label)
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


def original(
    code: Original,
    predictor: str,
    corrector: str,
    z: Iterator[Tensor],
    eps: float,
    snr: float = 0.16,
    n_steps: int = 1,
    flow: bool = False,
    noise_removal: bool = True,
) -> Tensor:
    """The predictor–corrector sampler; its last step returns the mean, or the state."""
    x = next(z) * (SIGMA[1] if code.sde == "ve" else 1.0)
    mean = x
    for t in torch.linspace(1, eps, code.N, dtype=torch.float64).tolist():
        for _ in range(n_steps if corrector != "none" else 0):
            x = mean = code.correct(corrector, x, t, snr, next(z))
        if predictor != "none":
            x, mean = code.predict(predictor, x, t, next(z) if not flow else x, flow)
    return mean if noise_removal else x


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


CASES = [
    ("ve", True, "reverse_diffusion", "langevin"),
    ("ve", True, "ancestral_sampling", "none"),
    ("ve", True, "euler_maruyama", "ald"),
    ("ve", False, "none", "ald"),
    ("vp", True, "euler_maruyama", "none"),
    ("vp", True, "reverse_diffusion", "langevin"),
    ("vp", True, "ancestral_sampling", "ald"),
    ("vp", False, "ancestral_sampling", "none"),
    ("vp", False, "reverse_diffusion", "langevin"),
    ("subvp", True, "euler_maruyama", "none"),
    ("subvp", True, "reverse_diffusion", "none"),
]


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("sde", "continuous", "predictor", "corrector"), CASES)
def test_the_samplers_are_the_originals(
    sde: str, continuous: bool, predictor: str, corrector: str, dtype: torch.dtype
) -> None:
    N, eps = 100, 1e-5 if sde == "ve" else 1e-3
    z = noises(3 * N + 1, dtype)
    code = Original(sde, N, continuous)
    with torch.no_grad():
        theirs = original(code, predictor, corrector, iter(z.double()), eps)
    model = model_of(sde, N, continuous, dtype)
    sampler = ss.published.score_sde_pc(
        model, predictor, corrector, num_scales=None if not continuous else N
    )
    assert difference(draw(sampler, model, z), theirs) < (1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@torch.no_grad()
@pytest.mark.parametrize(
    ("sde", "predictor"), [("ve", "reverse_diffusion"), ("vp", "euler_maruyama")]
)
def test_the_probability_flow_steps_are_the_originals(sde: str, predictor: str) -> None:
    N, eps, z = 50, 1e-5 if sde == "ve" else 1e-3, noises(1)
    theirs = original(Original(sde, N), predictor, "none", iter(z), eps, flow=True)
    model = model_of(sde, N, True, torch.float64)
    sampler = ss.published.score_sde_pc(
        model, predictor, "none", probability_flow=True, num_scales=N
    )
    assert difference(draw(sampler, model, z), theirs) < 1e-9


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@torch.no_grad()
def test_the_corrector_may_take_several_steps() -> None:
    N, z = 30, noises(91)
    theirs = original(Original("vp", N), "none", "langevin", iter(z), 1e-2, 0.1, 3)
    model = model_of("vp", N, True, torch.float64)
    sampler = ss.published.score_sde_pc(model, "none", "langevin", 0.1, 3, num_scales=N, eps=1e-2)
    assert difference(draw(sampler, model, z), theirs) < 1e-9


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@torch.no_grad()
@pytest.mark.parametrize(("sde", "eps"), [("ve", 1e-5), ("vp", 1e-3)])
def test_the_last_step_may_keep_its_noise(sde: str, eps: float) -> None:
    N, z = 50, noises(51)
    code, model = Original(sde, N), model_of(sde, N, True, torch.float64)
    theirs = original(code, "reverse_diffusion", "none", iter(z), eps, noise_removal=False)
    sampler = ss.published.score_sde_pc(
        model, "reverse_diffusion", "none", num_scales=N, noise_removal=False
    )
    assert difference(draw(sampler, model, z), theirs) < 1e-9
