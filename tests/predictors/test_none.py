"""The predictor that does nothing."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from tests.helpers.strategies import REPRESENTATIVES

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_no_predictor_is_the_identity(name: str) -> None:
    sde = REPRESENTATIVES[name]
    sampler = ss.PredictorCorrector(sde, predictor=ss.NoPredictor(), steps=4, denoise=False)
    x = torch.randn(3, 2)
    assert torch.equal(sampler.sample(lambda x, t: x / 0, init=x), x)
    assert sampler.evaluations == 0
    assert len(sampler.program.spans) == 1
