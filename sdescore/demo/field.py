"""A score learned on 2-D data, drawn, and compared with the exact one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from sdescore.datasets import ring
from sdescore.nets.mlp import MLP
from sdescore.plotting import plot_score_field
from sdescore.score.mixture import MixtureScore
from sdescore.score.model import ScoreModel
from sdescore.sde.ve import VESDE
from sdescore.training.loop import train

__all__ = ["score_field"]

RADIUS, STD = 1.0, 0.1


def score_field(path: Path, seed: int, steps: int, t: float = 0.5) -> dict[str, float]:
    """Train a small MLP on a ring of eight modes and draw its score at ``t``.

    Returns the relative error of the learned score at ``t``: the root of
    ``E‖s − s*‖² / E‖s*‖²`` over fresh diffused data, with s* the exact mixture's score.
    """
    sde = VESDE(sigma_min=0.01, sigma_max=5.0)
    data, fresh = (ring(4096, radius=RADIUS, std=STD, seed=s) for s in (seed, seed + 1))
    torch.manual_seed(seed)
    model = ScoreModel(MLP(2), sde, "F", "log_sigma", sigma_data=RADIUS / math.sqrt(2))
    # Its states are the data themselves, so that its score is comparable with the exact one.
    options: dict[str, Any] = {"batch_size": 512, "lr": 2e-3, "seed": seed, "standardize": False}
    model = train(model, data, steps=steps, **options).model

    angle = torch.arange(8, dtype=torch.float32, device="cpu") * (math.pi / 4)
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    each = torch.ones_like(angle)
    exact = MixtureScore(each / 8, means, each * STD**2, sde)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(4096, 2, generator=generator, dtype=torch.float32, device="cpu")
    x_t = sde.perturb(fresh, t, noise)
    time = torch.tensor(t, dtype=torch.float64, device="cpu")
    sigma = sde.marginal(time)[1].item()
    with torch.no_grad():
        truth = exact(x_t, time)
        error = ((model(x_t, time) - truth).square().sum() / truth.square().sum()).sqrt().item()
    title = f"Learned score of a ring at σ = {sigma:.2f} (relative error {error:.0%})"
    figure = plot_score_field(model, t, (-1.8, 1.8, -1.8, 1.8), data=x_t[:1500], title=title)
    figure.savefig(path, dpi=110)
    return {"t": t, "sigma": sigma, "relative_error": error}
