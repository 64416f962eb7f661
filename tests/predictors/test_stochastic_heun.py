"""Heun's method on the reverse SDE: one step by hand."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
from sdescore.predictors import stochastic_heun
from sdescore.predictors.stochastic_heun import StochasticHeun
from tests.helpers.by_hand import ByHand, Paper, bent, one_step_is
from tests.helpers.multistage import SDES, VP


def heun_on_the_reverse_sde(
    eta: float,
) -> Paper:
    def step(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
        reverse = p.sde.reverse(
            lambda y, time: y.clone().apply_(lambda v: bent(v, float(time))), eta
        )

        def drift(y: float, time: float) -> float:
            return reverse.drift(torch.tensor([y], dtype=torch.float64), time).item()

        h, g = t - s, [reverse.diffusion(u).item() for u in (t, s)]
        first = drift(x, t)
        y = x - h * first + g[0] * math.sqrt(h) * z[0]
        return x - h / 2 * (first + drift(y, s)) + (g[0] + g[1]) / 2 * math.sqrt(h) * z[0]

    return step


STEPS = [
    ("Roberts", VP, StochasticHeun(), heun_on_the_reverse_sde(1.0)),
    ("Roberts 0.6", SDES["flow"], StochasticHeun(0.6), heun_on_the_reverse_sde(0.6)),
]


@pytest.mark.parametrize(
    ("sde", "predictor", "paper"), [c[1:] for c in STEPS], ids=[c[0] for c in STEPS]
)
def test_one_step_is_the_papers(sde: ss.LinearSDE, predictor: ss.Predictor, paper: Paper) -> None:
    one_step_is(paper, sde, predictor)


@pytest.mark.parametrize(("sde", "eta"), [(VP, 0.0), (SDES["flow"], 0.6)])
def test_the_step_is_the_same_in_v(
    sde: ss.LinearSDE, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stochastic_heun, "NEAR_NOISE", 2.0)
    method = StochasticHeun(eta)
    assert method.tableau(sde, torch.tensor([0.6, 0.3], dtype=torch.float64)).output == "v"
    one_step_is(heun_on_the_reverse_sde(eta), sde, method)


@torch.no_grad()
def test_the_flow_starts_from_noise_alone() -> None:
    """Heun's step on a velocity from t = 1, in float32."""
    x = torch.linspace(-2, 2, 5)[:, None]
    first = torch.sin(x + 1.0)
    expected = x - 0.2 * (first + torch.sin(x - 0.4 * first + 0.6))
    sde, net = ss.RectifiedFlowSDE(T=1 - 1e-8), lambda y, t: torch.sin(y + t[:, None])
    model = ss.ScoreModel(net, sde, "velocity", "t")
    grid = [sde.T, 0.6]
    sampler = ss.PredictorCorrector(sde, StochasticHeun(0.0), grid=grid, denoise=False)
    assert (sampler.sample(model, init=x) - expected).abs().max() < 1e-6
