"""SDEs, boxes and distances that the Fokker–Planck tests share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck

F64 = torch.float64


@dataclass(frozen=True)
class Wells(ss.SDE):
    """``dx = (x − x³ + sin 3t) dt + (½ + t/2) dw``, non-linear, both rates depending on time."""

    T: float = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x - x**3 + math.sin(3 * float(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return 0.5 + 0.5 * t


@dataclass(frozen=True)
class Linear(ss.SDE):
    """``dx = A x dt + g dw`` with any matrix A."""

    A: tuple[tuple[float, ...], ...]
    g: float = 1.0
    T: float = 2.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ torch.tensor(self.A, dtype=x.dtype).T

    def diffusion(self, t: Tensor) -> float:  # a plain number will do
        return self.g


@dataclass(frozen=True)
class Still(Linear):
    """Pure diffusion."""

    A: tuple[tuple[float, ...], ...] = ()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def l1(fp: FokkerPlanck, p: Tensor, q: Tensor) -> float:
    return fp.mass((p - q).abs()).item()


def slope(errors: list[float]) -> float:
    """Order, from errors at 1, 2, 4, … times the resolution: the finest pair's."""
    return math.log2(errors[-2] / errors[-1])


def gaussian(mean: float, variance: float):
    return lambda x: -((x[:, 0] - mean) ** 2) / (2 * variance)


SMOOTH = {
    "vp": (ss.VPSDE(), 7.0, 1.0),
    "subvp": (ss.SubVPSDE(), 7.0, 1.0),
    "ve": (ss.VESDE(sigma_min=0.3, sigma_max=2.0), 13.0, 1.0),
    "edm": (ss.EDMSDE(sigma_min=0.01, sigma_max=1.5), 10.0, 1.0),
}


def double_well(x: Tensor) -> Tensor:
    return x - x**3
