"""Samplers and models that the tests of bad requests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdescore as ss

VP = ss.VPSDE()


TABLE = ss.DiscreteVPSDE.linear(10)


SAMPLER = ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=5)


X = torch.zeros(2, 3)


def untouched(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
    pytest.fail("the model was called before the request was refused")


class NonLinear(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return -(x**3)

    def diffusion(self, t: ss.typing.Time) -> Tensor:
        return torch.as_tensor(1.0)
