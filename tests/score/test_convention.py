"""A network's convention against the papers' tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.score.convention import conversion, pair

pytestmark = pytest.mark.fast


def test_the_pairs_of_the_table() -> None:
    """Each prediction from its definition, on one hand-made state."""
    alpha, sigma = torch.tensor([0.8, 0.6], dtype=torch.float64)
    x0, noise = 2.0, -1.0
    x = torch.tensor([[0.8 * x0 + 0.6 * noise]], dtype=torch.float64)
    values = {
        "score": -(x.item() - 0.8 * x0) / 0.36,
        "epsilon": noise,
        "x0": x0,
        "v": 0.8 * noise - 0.6 * x0,
    }
    for kind, value in values.items():
        p, q = pair(kind, alpha, sigma)
        assert (p * x0 + q * noise).item() == pytest.approx(value, rel=1e-14)
        for to, expected in values.items():
            y = torch.full((1, 1), value, dtype=torch.float64)
            assert ss.convert(y, x, 0.8, 0.6, kind, to).item() == pytest.approx(expected, rel=1e-13)
    u, w = conversion(alpha, sigma, pair("v", alpha, sigma), pair("x0", alpha, sigma))
    assert (u.item(), w.item()) == pytest.approx((0.8, -0.6), rel=1e-14)


TABLE = ss.DiscreteVPSDE.linear(40, 1e-3, 0.25)


def test_options_rebuild_the_convention() -> None:
    model = ss.ScoreModel(nn.Identity(), TABLE, "F", "level", sigma_data=0.3)
    again = ss.ScoreModel(model.net, model.sde, **model.options)
    assert again.options == model.options
    assert model.convention.input_scaling == "unit"
    assert "sigma_data=0.3" in repr(model) and "'level'" in repr(model)
