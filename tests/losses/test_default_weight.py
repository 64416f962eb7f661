"""The weight that the denoising loss takes when none is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdescore as ss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE(), ss.RectifiedFlowSDE()], ids=repr)
def test_a_model_of_f_has_edms_weight_by_default(sde: ss.LinearSDE) -> None:
    """And the loss is ½ ‖y − F‖², with the paper's F, for data of a standard deviation of 0.7."""
    x0, noise, y = (draw(5, 3, seed=s) for s in range(3))
    t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64) * sde.T
    model = ss.ScoreModel(lambda x, c: y, sde, sigma_data=0.7)
    assert model.prediction == "F"
    loss = ss.denoising_loss(model, x0, t=t, noise=noise).per_sample
    edm = ss.losses.EDMWeighting(0.7)
    weighted = ss.denoising_loss(model, x0, t=t, noise=noise, weighting=edm).per_sample
    torch.testing.assert_close(loss, weighted, rtol=1e-6, atol=0)
    alpha, sigma = sde.marginal(t)
    level = (sigma / alpha)[:, None]
    c_skip = 0.49 / (level**2 + 0.49)
    c_out = 0.7 * level / (level**2 + 0.49).sqrt()
    target = (x0 - c_skip * (x0 + level * noise)) / c_out  # Karras et al. 2022, eq. 8
    expected = 0.5 * (y - target).square().sum(1)
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction", ["F", "v", "epsilon"])
def test_a_wrapper_changes_no_default(prediction: str) -> None:
    """``DataParallel(model)`` is called as a score; its weighting is that of what is inside."""
    torch.manual_seed(0)
    net = ss.MLP(2, hidden=16)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model = ss.ScoreModel(net, ss.VPSDE(), prediction, sigma_data=0.7)
    x0, t = torch.randn(64, 2), torch.linspace(0.01, 1.0, 64, dtype=torch.float64)
    both = (
        ss.denoising_loss(m, x0, t=t, generator=torch.Generator().manual_seed(1)).per_sample
        for m in (model, torch.nn.DataParallel(model))
    )
    assert torch.allclose(*both, rtol=1e-3)
