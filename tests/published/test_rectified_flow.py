"""Rectified flow from t = 1 against Euler's method on the velocity, as a loop."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from sdescore.errors import IncompatibleError, ScheduleError
from tests.helpers.published import Network, difference, draw, noises


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [2, 25])
def test_euler(steps: int, dtype: torch.dtype) -> None:
    z, net = noises(1, dtype), Network()
    x = z[0].double()
    for i in range(steps):
        x = x - net(x, torch.tensor([1 - i / steps], dtype=torch.float64)) / steps
    model = ss.ScoreModel(Network(dtype), ss.RectifiedFlowSDE(T=1 - 1e-8), "velocity", "t")
    sampler = ss.published.rectified_flow(model, steps)
    assert difference(draw(sampler, model, z), x) < 1e-6
    assert sampler.evaluations == steps


def test_refusals() -> None:
    with pytest.raises(ScheduleError, match="T=1 - 1e-8"):
        ss.published.rectified_flow(ss.RectifiedFlowSDE())
    with pytest.raises(ScheduleError, match="at t = 1"):
        ss.published.rectified_flow(ss.EDMSDE())
    with pytest.raises(ScheduleError, match="N >= 2"):
        ss.published.rectified_flow(ss.RectifiedFlowSDE(T=1 - 1e-8), 1)
    with pytest.raises(IncompatibleError, match="LinearSDE"):
        ss.published.rectified_flow(torch.tanh)
