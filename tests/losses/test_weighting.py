"""Weightings, in the variables of their papers."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import (
    EDMWeighting,
    LogNormalTimes,
    MinSNR,
)
from sdescore.losses.weighting import sigma2
from tests.helpers.strategies import (
    continuous_sdes,
    log_uniform,
    ordered_times,
    paper_marginal,
)
from tests.helpers.weightings import (
    draw,
)


class Returns(nn.Module):
    """A network whose output is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.register_buffer("output", output)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.output


BATCH = 7


TIMES = torch.linspace(0.02, 1.0, BATCH, dtype=torch.float64)


X0, NOISE, OUTPUT = draw(BATCH, 2, 3), draw(BATCH, 2, 3, seed=1), draw(BATCH, 2, 3, seed=2)


def twice_loss(sde: ss.LinearSDE, prediction: str, weighting: object, t: Tensor = TIMES) -> Tensor:
    model = ss.ScoreModel(Returns(OUTPUT), sde, prediction)
    loss = ss.denoising_loss(model, X0, weighting=weighting, t=t, noise=NOISE)
    return 2 * loss.per_sample


def squared(error: Tensor) -> Tensor:
    return error.square().flatten(1).sum(1)


@pytest.mark.parametrize("gamma", [0.5, 5.0, 20.0])
def test_min_snr_in_the_variables_of_hang(gamma: float) -> None:
    """On x₀ min(SNR, γ), on ε min(SNR, γ)/SNR, on v min(SNR, γ)/(SNR + 1)."""
    alpha_bar = torch.exp(-0.1 * TIMES - 0.5 * 19.9 * TIMES**2)
    a, s = (v.sqrt()[:, None, None] for v in (alpha_bar, 1 - alpha_bar))
    snr = alpha_bar / (1 - alpha_bar)
    clipped = torch.minimum(snr, torch.tensor(gamma))
    assert (snr > gamma).any() and (snr < gamma).any()
    by_kind = {
        "x0": clipped * squared(OUTPUT - X0),
        "epsilon": clipped / snr * squared(OUTPUT - NOISE),
        "v": clipped / (snr + 1) * squared(OUTPUT - (a * NOISE - s * X0)),
    }
    for kind, expected in by_kind.items():
        loss = twice_loss(ss.VPSDE(), kind, MinSNR(gamma=gamma))
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_in_the_variables_of_karras(sigma_data: float) -> None:
    """λ(σ)‖D(y + n; σ) − y‖², table 1, as eq. 8 has it: ‖F − (y − c_skip(y + n))/c_out‖²."""
    sde, sigma = ss.EDMSDE(), 80.0 * TIMES**4
    s = sigma[:, None, None]
    total = s**2 + sigma_data**2
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    loss = twice_loss(sde, "x0", EDMWeighting(sigma_data), t=sigma)
    torch.testing.assert_close(loss, weight * squared(OUTPUT - X0), rtol=1e-11, atol=0)

    skip, out = sigma_data**2 / total, s * sigma_data / total.sqrt()
    target = (X0 - skip * (X0 + s * NOISE)) / out
    model = ss.ScoreModel(Returns(OUTPUT), sde, "F", sigma_data=sigma_data)
    loss = ss.denoising_loss(
        model, X0, weighting=EDMWeighting(sigma_data), t=sigma, noise=NOISE
    ).per_sample
    torch.testing.assert_close(2 * loss, squared(OUTPUT - target), rtol=1e-8, atol=0)


@settings(max_examples=50)
@given(data=st.data(), sde=continuous_sdes(), parameter=log_uniform(0.05, 50.0))
def test_all_are_functions_of_the_snr(
    data: st.DataObject, sde: ss.LinearSDE, parameter: float
) -> None:
    """As weights of the x₀ error, against the papers' marginals at 50 digits."""
    (t,) = data.draw(ordered_times(sde, 1))
    with mpmath.workdps(50):
        alpha, sigma = paper_marginal(sde)(mpmath.mpf(t))
        snr, level, c = (alpha / sigma) ** 2, sigma / alpha, mpmath.mpf(parameter)
        to_score_error = sigma**2 / snr
        expected = {
            sigma2: snr,
            MinSNR(parameter): min(snr, c),
            EDMWeighting(parameter): (level**2 + c**2) / (level * c) ** 2,
        }
        for weighting, weight in expected.items():
            got = weighting(sde, torch.tensor([t], dtype=torch.float64)).item()
            assert got == pytest.approx(float(weight * to_score_error), rel=1e-9)


def test_parameters_are_named_for_the_checkpoint() -> None:
    assert repr(MinSNR(5)) == repr(MinSNR()) == "MinSNR(gamma=5.0)"
    assert repr(EDMWeighting(np.float64(0.5))) == repr(EDMWeighting())
    assert repr(LogNormalTimes(-1, 2)) == "LogNormalTimes(stratified=False, mean=-1.0, std=2.0)"
    assert (LogNormalTimes().mean, LogNormalTimes().std) == (-1.2, 1.2)  # EDM, table 1
    assert MinSNR(1.0) != MinSNR(2.0) and hash(MinSNR(1.0)) == hash(MinSNR(1.0))
