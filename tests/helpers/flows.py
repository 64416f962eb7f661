"""Scores and data that the tests of the probability flow share."""

from __future__ import annotations

import torch
from torch import Tensor

import sdescore as ss

F64 = torch.float64


NAMES = ["vp", "subvp", "ve", "edm", "flow", "cosine"]


WEIGHTS = [0.5, 0.3, 0.2]


MEANS = [[-1.0, 0.0], [1.0, 1.0], [1.0, -1.5]]


COVARIANCES = [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]], [[0.1, -0.05], [-0.05, 0.1]]]


def mixture(sde: ss.LinearSDE) -> ss.MixtureScore:
    return ss.MixtureScore(WEIGHTS, MEANS, COVARIANCES, sde)


def mixture_states(sde: ss.LinearSDE, n: int, t: float) -> Tensor:
    clean = mixture(sde).sample(n, seed=1, dtype=F64)
    return sde.perturb(clean, t, torch.randn(n, 2, dtype=F64))


def gaussian_map(sde: ss.LinearSDE, x: Tensor, m: Tensor, std: Tensor, s: float, t: float):
    """Flow of N(m, std²) from s to t: standardised coordinates stay; and its log determinant."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = sde.marginal(s), sde.marginal(t)
    ratio = torch.hypot(alpha_t * std, sigma_t) / torch.hypot(alpha_s * std, sigma_s)
    return alpha_t * m + ratio * (x - alpha_s * m), ratio.log().sum()


M, STD = torch.tensor([1.0, -2.0, 0.5], dtype=F64), torch.tensor([0.3, 1.0, 2.0], dtype=F64)
