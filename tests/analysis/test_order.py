"""The measured order, against distributions that tests/helpers/affine.py carries by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import sdescore as ss
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from tests.helpers.affine import Modes, output_moments
from tests.helpers.methods import Heun

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize(
    "predictor", [ss.DDIM(), ss.EulerMaruyama(0.5), Heun(), ExponentialRungeKutta(0.0, 3)], ids=repr
)
def test_it_is_the_slope_of_w2_between_two_grids(predictor: ss.Predictor, name: str) -> None:
    """W2 of Gaussians is |Δ std| a mode; equal steps in log-SNR from 4 above 0 to 4 below."""
    sde = {"vp": ss.VPSDE(), "ve": ss.VESDE()}[name]
    data, n = Modes.of((0.0, 0.2), (0.0, 1.0), (0.0, 3.0)), 16

    def w2(steps: int) -> float:
        times = sde.time_at_log_snr(torch.linspace(-4, 4, steps + 1, dtype=torch.float64))
        options = {"grid": times.tolist(), "denoise": False}
        sampler = ss.PredictorCorrector(sde, predictor=predictor, **options)
        found = np.sqrt(output_moments(sampler, data)[1])
        return float(np.linalg.norm(found - np.sqrt(data.marginal(sde, times[-1].item())[1])))

    measured = ss.analysis.order(predictor, sde, steps=n)
    assert measured == pytest.approx(math.log2(w2(n) / w2(2 * n)), rel=1e-5)


def test_it_tends_to_the_declared_order() -> None:
    for predictor in (ss.DDIM(), Heun(), ExponentialRungeKutta(0.0, 3)):
        assert ss.analysis.order(predictor, ss.VPSDE()) == pytest.approx(predictor.order, abs=0.1)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ss.errors.ParameterError, match="steps >= 2"):
        ss.analysis.order(ss.DDIM(), ss.VPSDE(), steps=1)
