"""A network's convention against the papers' tables."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.score.convention import Convention, conversion, pair

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


def test_the_repr_names_the_grid_of_a_sampler_by_default() -> None:
    for sde in (TABLE, ss.VPSDE()):
        model = ss.ScoreModel(nn.Identity(), sde, "epsilon", "t")
        grid = repr(ss.PredictorCorrector(sde, steps=3).grid)
        assert f"default_grid={grid}" in repr(model)
    assert "default_grid=LevelGrid()" in repr(ss.ScoreModel(nn.Identity(), TABLE, "epsilon"))
    assert "trained_on" not in repr(model) and "trained_on=VPSDE" in repr(model.under(ss.VESDE()))


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edms_table_1_on_edms_sde(sigma_data: float) -> None:
    """Karras et al. 2022, eq. 7 and table 1: D = c_skip x + c_out F(c_in x; c_noise)."""
    convention = Convention(ss.EDMSDE(), "F", sigma_data=sigma_data)
    for sigma in (0.002, 0.4, 3.0, 80.0):
        total = sigma**2 + sigma_data**2
        numbers = convention.at(torch.tensor(sigma, dtype=torch.float64))
        skip, out = numbers.to("x0")
        assert skip.item() == pytest.approx(sigma_data**2 / total, rel=1e-12)
        assert out.item() == pytest.approx(sigma * sigma_data / math.sqrt(total), rel=1e-12)
        assert numbers.input_scale.item() == pytest.approx(1 / math.sqrt(total), rel=1e-13)
        assert numbers.time_value.item() == pytest.approx(math.log(sigma) / 4, rel=1e-12)


def test_under_another_sde_the_network_is_asked_at_the_same_noise() -> None:
    """A VP state is the EDM state times α at σ = σ_vp/α: F sees what it would see there."""
    vp = ss.VPSDE()
    moved = Convention(ss.EDMSDE(), "F", sigma_data=0.5).under(vp)
    for t in (0.1, 0.5, 0.9):
        alpha, spread = (v.item() for v in vp.marginal(t))
        sigma = spread / alpha
        numbers = moved.at(torch.tensor(t, dtype=torch.float64))
        scale = 1 / (alpha * math.sqrt(sigma**2 + 0.25))
        assert numbers.input_scale.item() == pytest.approx(scale, rel=1e-10)
        assert numbers.time_value.item() == pytest.approx(math.log(sigma) / 4, rel=1e-9)


def test_a_velocity_on_straight_lines_is_noise_less_datum() -> None:
    """Liu et al. 2022: y = ε − x₀, so that x₀ = x − t y."""
    numbers = Convention(ss.RectifiedFlowSDE(), "velocity").at(torch.tensor(0.3).double())
    assert tuple(v.item() for v in numbers.pair) == pytest.approx((-1.0, 1.0), rel=1e-12)
    assert tuple(v.item() for v in numbers.to("x0")) == pytest.approx((1.0, -0.3), rel=1e-6)
