"""A network of twice the channels: its prediction, and after it the variance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

pytestmark = pytest.mark.fast


class Both(nn.Module):
    """sin x, and after it cos x, shifted by the label."""

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0.0 if label is None else label.reshape(-1, *(1,) * (x.ndim - 1))
        return torch.cat([torch.sin(x) + shift, torch.cos(x) - shift], 1)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 1, 4, 5)])
def test_the_first_half_of_the_channels_is_the_prediction(shape: tuple[int, ...]) -> None:
    net, x, c = ss.nets.LearnedVariance(Both()), torch.randn(shape), torch.zeros(3)
    assert torch.equal(net(x, c), x.sin())
    prediction, v = net.with_variance(x, c)
    assert torch.equal(prediction, x.sin()) and torch.equal(v, x.cos())
    label = torch.tensor([0, 1, 2])
    shift = label.reshape(-1, *(1,) * (x.ndim - 1))
    prediction, v = net.with_variance(x, c, label)
    torch.testing.assert_close(prediction, x.sin() + shift)
    torch.testing.assert_close(v, x.cos() - shift)
    assert torch.equal(net(x, c, label), prediction)


def test_a_model_of_it_predicts_by_the_first_half() -> None:
    sde = ss.VPSDE()
    model = ss.ScoreModel(ss.nets.LearnedVariance(Both()), sde, "epsilon")
    x = torch.randn(4, 3)
    sigma = sde.marginal(0.4)[1].float()
    torch.testing.assert_close(model(x, 0.4), -x.sin() / sigma)
