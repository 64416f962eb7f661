"""Heun's method on the reverse SDE: one step by hand."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
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
