"""Data that the tests of the ladders share."""

from __future__ import annotations

import math

import torch
from scipy.spatial.distance import pdist

NAN, INF = math.nan, math.inf


def true_diameter(data: torch.Tensor) -> float:
    return float(pdist(data.double().flatten(1).numpy()).max())
