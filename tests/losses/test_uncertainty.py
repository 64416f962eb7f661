"""The uncertainty loss: its formula, and where it is smallest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError


class Affine(nn.Module):
    """F = a x + b, with u(c) = p + q c."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -0.3, 0.4, -0.9], dtype=torch.float64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.weight[0] * x + self.weight[1]

    def log_variance(self, c: Tensor) -> Tensor:
        return self.weight[2] + self.weight[3] * c


def test_it_is_the_papers() -> None:
    """½ (λ(σ)/e^u ‖D − x₀‖² + d u), λ = (σ² + σ_d²)/(σ σ_d)², Karras et al. 2024, eq. 21."""
    torch.manual_seed(0)
    net, data = Affine(), 0.5
    model = ss.ScoreModel(net, ss.EDMSDE(), sigma_data=data)
    x0, noise = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    sigmas = [0.02, 0.7, 30.0]
    t = torch.tensor(sigmas, dtype=torch.float64)
    found = ss.losses.uncertainty_loss(model, x0, t=t, noise=noise)
    a, b, p, q = net.weight.tolist()
    for i, s in enumerate(sigmas):
        x, total = x0[i] + s * noise[i], math.sqrt(s**2 + data**2)
        denoised = data**2 / total**2 * x + s * data / total * (a * x / total + b)
        u = p + q * math.log(s) / 4
        scale = total**2 / (s * data) ** 2 / math.exp(u)
        expected = 0.5 * (scale * (denoised - x0[i]) ** 2 + u).sum()
        torch.testing.assert_close(found.per_sample[i], expected, rtol=1e-9, atol=0)
    assert found.mean == found.per_sample.mean()


def test_it_is_smallest_at_the_mean_squared_error() -> None:
    torch.manual_seed(0)
    net = Affine()
    model = ss.ScoreModel(net, ss.EDMSDE(), sigma_data=0.5)
    x0, noise, t = torch.randn(4, 6).double(), torch.randn(4, 6).double(), 0.8
    error = 2 * ss.denoising_loss(model, x0, t=t, noise=noise).mean / 6
    with torch.no_grad():
        net.weight[2:] = torch.stack([error.log(), 0 * error])
    ss.losses.uncertainty_loss(model, x0, t=t, noise=noise).mean.backward()
    assert abs(net.weight.grad[2].item()) < 1e-12


def test_what_has_no_uncertainty_is_refused() -> None:
    x0 = torch.zeros(2, 2)
    with pytest.raises(IncompatibleError, match=r"log_variance\(c\).*MLP"):
        ss.losses.uncertainty_loss(ss.ScoreModel(ss.MLP(2), ss.EDMSDE()), x0, t=1.0)
    with pytest.raises(IncompatibleError, match="model"):
        ss.losses.uncertainty_loss(
            ss.GaussianScore(torch.zeros(2), torch.eye(2), ss.VPSDE()), x0, t=1.0
        )  # type: ignore[arg-type]
