"""Parts that users write: what is refused, and what must simply work."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import sdescore as ss


def test_a_weight_on_an_output_that_does_not_exist_is_refused() -> None:
    @dataclass(frozen=True)
    class EagerMultistep(ss.Predictor):
        order = 1

        def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
            n = len(times) - 1
            one = torch.ones(n, 1, dtype=torch.float64)
            b = torch.ones(n, 1, 2, dtype=torch.float64)  # two outputs from the first step on
            return ss.Tableau(times[:-1, None], one, b, torch.zeros_like(one)[..., None])

    with pytest.raises(ss.errors.IncompatibleError, match="exist by then"):
        ss.PredictorCorrector(ss.VPSDE(), predictor=EagerMultistep(), steps=4)


def test_a_corrector_may_have_a_required_number_of_steps() -> None:
    @dataclass(frozen=True)
    class Twice(ss.Corrector):
        steps: int

        def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
            return ss.Langevin(snr=0.1).tableau(sde, times)

    assert (
        ss.PredictorCorrector(
            ss.VPSDE(), predictor=ss.ReverseDiffusion(), corrector=Twice(2), steps=4
        ).evaluations
        == 4 + 2 * 3
    )
