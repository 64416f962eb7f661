"""Losses take data: a model that standardises them is trained on its states."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.losses import at_levels, finite_difference_loss, implicit_loss, sliced_loss
from tests.helpers.standardised import MEAN, STD, by_hand

LOSSES: dict[str, Any] = {
    "denoising": ss.denoising_loss,
    "implicit": implicit_loss,
    "sliced": sliced_loss,
    "difference": finite_difference_loss,
    "explicit": partial(ss.losses.explicit_loss, target=lambda x, t: -x),
    "own": at_levels(lambda score, x: ss.losses.Loss.of(score(x).square().sum(1))),
}


def pair() -> tuple[ss.ScoreModel, ss.ScoreModel]:
    """One network, with and without standardisation."""
    torch.manual_seed(0)
    net = ss.MLP(3, hidden=16).double()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3)
    with_scale = ss.ScoreModel(net, ss.VPSDE(), data_mean=MEAN, data_std=STD, prediction="epsilon")
    return with_scale, ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon")


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_the_loss_is_that_of_the_states(name: str, wrap: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    model, states_model = pair()
    found, expected = (
        LOSSES[name](m, x, t=t, generator=torch.Generator().manual_seed(2)).per_sample
        for m, x in ((wrap(model), by_hand(z)), (wrap(states_model), z))
    )
    assert torch.allclose(found, expected, rtol=1e-6)


def test_noise_is_that_of_the_states() -> None:
    """An ε-network that says 0 has the loss ½‖ε‖², whatever the data."""
    model = ss.ScoreModel(ss.MLP(3), ss.VPSDE(), data_mean=MEAN, data_std=STD, prediction="epsilon")
    x0 = by_hand(torch.randn(4, 3)).float()
    loss = ss.denoising_loss(model, x0, noise=torch.ones(4, 3))
    assert loss.mean.item() == pytest.approx(1.5)
