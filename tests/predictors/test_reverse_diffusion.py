"""Reverse diffusion: the forward step read backwards."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from sdescore.score.mixture import GaussianScore

pytestmark = pytest.mark.fast


ETAS = (0.0, 0.3, 1.0)


@pytest.mark.parametrize("eta", ETAS)
def test_reverse_diffusion_with_a_share_of_its_noise(eta: float) -> None:
    """The forward step ``x_t = a x_s + √V z`` read backwards, with ReverseSDE's weights."""
    times = torch.tensor([0.8, 0.5, 0.45], dtype=torch.float64)
    step = ss.VPSDE().transition(times[1:], times[:-1])
    numbers = ss.ReverseDiffusion(eta).tableau(ss.VPSDE(), times)
    torch.testing.assert_close(numbers.a.flatten(), 2 - step.scale)
    torch.testing.assert_close(numbers.b.flatten(), (1 + eta**2) / 2 * step.variance)
    torch.testing.assert_close(numbers.c.flatten(), eta * step.variance.sqrt())
    assert torch.equal(numbers.times.flatten(), times[:-1])


@pytest.mark.guards("M12")
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 19])
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.SubVPSDE()], ids=["vp", "subvp"])
def test_reverse_diffusion_from_one_step_up(sde: ss.LinearSDE, steps: int) -> None:
    """Peers take √(1 − β(t)/N), a NaN below 20 steps."""
    x = ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion(), steps=steps).sample(
        GaussianScore([0.0], 1.0, sde), (8, 1)
    )
    assert x.isfinite().all()
