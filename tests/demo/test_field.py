"""The error of a learned score field: 0 of the exact score, 1 of none at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.demo import field


class Ring:
    """The score of eight Gaussians of std 0.1 on the unit circle, by autograd of their density."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        means = torch.stack([angle.cos(), angle.sin()], 1)
        sigma = 0.01 * 500 ** float(t)
        with torch.enable_grad():
            y = x.detach().double().requires_grad_()
            square = (y[:, None] - means).square().sum(-1)
            log = torch.logsumexp(-0.5 * square / (0.1**2 + sigma**2), 1)
            (gradient,) = torch.autograd.grad(log.sum(), y)
        return gradient.to(x)


@pytest.mark.parametrize(
    ("factor", "error"), [(1.0, 0.0), (0.0, 1.0), (1.5, 0.5)], ids=["exact", "none", "too long"]
)
def test_the_relative_error(
    factor: float, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def score(x: Tensor, t: Tensor) -> Tensor:
        return factor * Ring()(x, t)

    def draw(model: Callable[..., Tensor], t: float, box: Any, **options: Any) -> Any:
        drawn.update(model=model, t=t, **options)
        return SimpleNamespace(savefig=lambda path, dpi: path.write_text("a picture"))

    def train(model: ss.ScoreModel, data: Tensor, steps: int, **_: Any) -> Any:
        assert data.shape == (4096, 2) and steps == 7
        assert model.sde == ss.VESDE(sigma_min=0.01, sigma_max=5.0)
        return SimpleNamespace(model=score)

    monkeypatch.setattr(field, "train", train)
    monkeypatch.setattr(field, "plot_score_field", draw)
    found = field.score_field(tmp_path / "field.png", 0, 7)
    assert found["relative_error"] == pytest.approx(error, abs=1e-5)
    assert found["sigma"] == pytest.approx(math.sqrt(0.01 * 5.0))
    assert (tmp_path / "field.png").read_text() == "a picture"
    assert drawn["model"] is score and f"{error:.0%}" in drawn["title"]
