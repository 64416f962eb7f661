"""EDM's sampler against algorithm 2 of its paper, written as a loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import ParameterError, ScheduleError
from tests.helpers.published import SHAPE, Network, difference, draw, noises

SIGMA_DATA = 0.5


class Denoiser:
    """D(x; σ) of the paper's eq. 7, for the network F of a model."""

    def __init__(self, net: Network) -> None:
        self.net = net

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        total = sigma**2 + SIGMA_DATA**2
        label = torch.tensor([math.log(sigma) / 4], dtype=torch.float64)
        F = self.net((x / math.sqrt(total)).to(self.net.gain.dtype), label).double()
        return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / math.sqrt(total) * F


def algorithm_2(
    D: Denoiser,
    z: Tensor,
    N: int,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Tensor:
    """The paper's algorithm; ``z[0]`` starts it, and each step with churn draws the next."""
    first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    t = [(first + i / (N - 1) * (last - first)) ** 7 for i in range(N)] + [0.0]
    draws = iter(z)
    x = t[0] * next(draws)
    for i in range(N):
        churned = S_churn > 0 and S_min <= t[i] <= S_max
        gamma = min(S_churn / N, math.sqrt(2) - 1) if churned else 0.0
        t_hat = t[i] * (1 + gamma)
        if churned:
            x = x + math.sqrt(t_hat**2 - t[i] ** 2) * S_noise * next(draws)
        d = (x - D(x, t_hat)) / t_hat
        y = x + (t[i + 1] - t_hat) * d
        if i < N - 1:
            d = 0.5 * (d + (y - D(y, t[i + 1])) / t[i + 1])
            y = x + (t[i + 1] - t_hat) * d
        x = y
    return x


CHURNS: list[dict[str, float]] = [
    {},
    {"S_churn": 4.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003},  # as on ImageNet
    {"S_churn": 3.0, "S_min": 0.01, "S_max": 1.0, "S_noise": 1.007},  # as on CIFAR-10
    {"S_churn": 2.0},  # the first and the last step too
    {"S_churn": 100.0},  # γ at its limit
]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("churn", CHURNS)
def test_edm(churn: dict[str, float], dtype: torch.dtype) -> None:
    N, net, z = 10, Network(dtype), noises(11)
    sde = ss.EDMSDE(sigma_max=120.0)
    model = ss.ScoreModel(net, sde, sigma_data=SIGMA_DATA)
    sampler = ss.published.edm(model, N, **churn)
    theirs = algorithm_2(Denoiser(net), z, N, **churn)
    close = 1e-11 if dtype == torch.float64 else 1e-5
    assert difference(draw(sampler, model, z), theirs) < close
    assert sampler.evaluations == 2 * N - 1


@torch.no_grad()
def test_the_state_of_a_vp_model_is_the_originals_times_alpha() -> None:
    """ε(α x; t) under VP is D(x; σ) = x − σ ε, so both follow one path of x/α."""
    net, z = Network(), noises(9)
    vp = ss.VPSDE()
    model = ss.ScoreModel(net, vp, "epsilon", "log_snr")

    class Epsilon(Denoiser):
        def __call__(self, x: Tensor, sigma: float) -> Tensor:
            label = torch.tensor([-2 * math.log(sigma)], dtype=torch.float64)
            return x - sigma * self.net(x / math.sqrt(1 + sigma**2), label)

    churn = {"S_churn": 4.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
    sampler = ss.published.edm(model, 8, sigma_min=0.02, **churn)
    first, last = 80 ** (1 / 7), 0.02 ** (1 / 7)
    expected = [(first + i / 7 * (last - first)) ** 7 for i in range(8)]
    assert vp.noise_ratio(sampler.times).tolist() == pytest.approx(expected, rel=1e-9)
    ours = draw(ss.published.edm(model, 8, **churn), model, z)
    assert difference(ours, algorithm_2(Epsilon(net), z, 8, **churn)) < 1e-9


def test_sigmas_are_brought_into_the_range_of_the_sde() -> None:
    """As the original does with the range of its network."""
    sde = ss.VESDE(sigma_min=0.02, sigma_max=50.0)
    sigma = sde.marginal(ss.published.edm(sde).times)[1]
    assert sigma[0].item() == pytest.approx(50.0) and sigma[-1].item() == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": 1}, ScheduleError, "num_steps"),
        ({"S_churn": 5.0}, ScheduleError, "reaches σ/α = 102.2"),
        ({"sigma_min": 90.0}, ParameterError, "sigma_max > 90"),
        ({"rho": 0.0}, ParameterError, "rho"),
        ({"S_noise": 0.0}, ParameterError, "s_noise"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ss.published.edm(ss.EDMSDE(), **options)


def test_the_last_churn_is_of_the_paper_and_draws_no_noise_where_there_is_none() -> None:
    sde = ss.EDMSDE()
    inside = ss.PredictorCorrector(
        sde, predictor=ss.Heun(s_churn=3.0, s_max=50.0), grid=ss.KarrasGrid(), steps=6
    )
    outside = ss.PredictorCorrector(
        sde, predictor=ss.Heun(s_churn=3.0, s_min=0.05, s_max=50.0), grid=ss.KarrasGrid(), steps=6
    )
    assert inside.program.times[-1] == pytest.approx(0.002 * math.sqrt(2))  # γ = √2 − 1
    assert outside.program.times[-1] == 0.002
    assert len(inside.program.spans) == len(outside.program.spans) + 1
    assert draw(inside, ss.ScoreModel(Network(), sde), noises(9)).shape == SHAPE
