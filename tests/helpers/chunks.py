"""Samplers that the tests of the predictor–corrector sampler share."""

from __future__ import annotations

import torch
from torch import Tensor

import sdescore as ss

VP = ss.VPSDE()


def elementwise(x: Tensor, t: Tensor) -> Tensor:
    """Not affine, and each element on its own."""
    return -torch.tanh(x) / (0.1 + t)


def pc(**options: object) -> ss.PredictorCorrector:
    parts = {"predictor": ss.ReverseDiffusion(), "corrector": ss.Langevin(0.15, steps=2)}
    options = parts | {"steps": 7} | options
    return ss.PredictorCorrector(VP, **options)
