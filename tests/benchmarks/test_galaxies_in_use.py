"""benchmarks/galaxies_in_use.py: the blur, the observation's likelihood, and the page's figures.

A network that is exact for independent pixels takes the place of the pretrained one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

import sdescore as ss
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "howto" / "galaxies.md"
PICTURES = ROOT / "docs" / "_static" / "galaxies"
MEAN, STD, SIDE = 0.5, 0.4, 8
SDE = ss.VPSDE(beta_min=10.0, beta_max=10.0)


class Exact(nn.Module):
    """The score of independent pixels, each N(MEAN, STD²)."""

    side = SIDE

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v.to(x)[:, None, None, None] for v in SDE.marginal(t))
        return -(x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("galaxies_in_use")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "galaxies-in-use-cpu.json").read_text())


@pytest.fixture
def model() -> ss.ScoreModel:
    return ss.ScoreModel(Exact(), SDE, prediction="score", time_input="t")


def test_the_blur_is_gaussian(benchmark: ModuleType) -> None:
    image = torch.randn(2, 1, 20, 17, generator=torch.Generator().manual_seed(0))
    expected = [
        ndimage.gaussian_filter(one.double().numpy(), 2.0, mode="constant", truncate=3.0)
        for one in image[:, 0]
    ]
    np.testing.assert_allclose(benchmark.blur(image, 2.0)[:, 0], np.stack(expected), atol=1e-6)


def test_the_observation_of_a_clean_state_is_gaussian(
    benchmark: ModuleType, model: ss.ScoreModel
) -> None:
    """At the least noise x̂₀ and its spread are known, and with them the score's second part."""
    t = torch.tensor(1e-6)
    alpha, sigma = (v.item() for v in SDE.marginal(t))
    x = (MEAN + STD * torch.randn(3, 1, SIDE, SIDE)).double()
    observed = benchmark.observe(x.float()) + 0.02
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)  # d x̂₀/dx

    weights = np.exp(-0.5 * (np.arange(-9, 10) / benchmark.WIDTH) ** 2)
    rows = [[weights[9 + i - j] / weights.sum() for j in range(SIDE)] for i in range(SIDE)]
    blur = torch.tensor(rows, dtype=torch.float64)

    def log_prob(x: Tensor) -> Tensor:
        seen = blur @ torch.expm1(0.1 * (MEAN + gain * (x - alpha * MEAN))) @ blur.T
        variance = benchmark.NOISE**2 + 0.01 * (sigma / alpha) ** 2
        return torch.distributions.Normal(seen, variance**0.5).log_prob(observed).sum()

    expected = torch.func.grad(log_prob)(x)
    guided = benchmark.deblurring(model)
    found = guided(x.float(), t, observed) - model(x.float(), t)
    torch.testing.assert_close(
        found.double(), expected, rtol=2e-2, atol=2e-2 * expected.abs().max()
    )


def test_a_small_run(
    benchmark: ModuleType, model: ss.ScoreModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "EVALUATIONS", (5, 20))
    monkeypatch.setattr(benchmark, "RECOMMENDED", "5 again")
    monkeypatch.setattr(
        ss, "recommended_sampler", lambda sde, n, data: ss.PredictorCorrector(sde, steps=n)
    )
    found = benchmark.run(tmp_path, model, probes=3, steps=30)
    assert found["distance"]["20"] == 0 and found["distance"]["5 again"] == found["distance"]["5"]
    for name in ("evaluations.png", "deblurred.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    # Independent Gaussians: Hutchinson's estimate is exact, and so is the density.
    x = benchmark.drawn(model, benchmark.SCORED)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    alpha, sigma = (v.item() for v in SDE.marginal(SDE.t_min))
    density = torch.distributions.Normal(alpha * MEAN, math.hypot(alpha * STD, sigma))
    exact = density.log_prob(alpha * x + sigma * noise).sum((1, 2, 3))
    nats = found["likelihood"]["rows"]["the galaxy"]["nats"]
    torch.testing.assert_close(torch.tensor(nats).float(), exact, rtol=0, atol=1.0)
    assert benchmark.table(found).count("\n") == 1 + len(found["likelihood"]["rows"])


def test_the_page_says_what_was_saved(
    script: Callable[[str], ModuleType], benchmark: ModuleType, report: dict[str, Any]
) -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    assert benchmark.table(report) in PAGE.read_text("utf-8")
    assert script("machine").machine_sentence(report) in page
    for name in ("evaluations.png", "deblurred.png"):
        assert f"../_static/galaxies/{name}" in page
        assert len((PICTURES / name).read_bytes()) < 80_000
    distance = report["distance"]
    percent = [f"{100 * distance[k]:.2g} %" for k in (benchmark.RECOMMENDED, "10", "25", "100")]
    assert f"{percent[0]} with `recommended_sampler` and {percent[1]} with the default" in page
    assert f"{percent[2]} at 25 and {percent[3]} at 100" in page
    found = report["likelihood"]
    for said in (
        f"{found['nats_per_pixel']} nats a pixel",
        f"{found['nats_per_pixel_of_noise']} nats",
        f"{found['bits_per_dim']} bits",
        f"standard errors of {max(r['standard_error'] for r in found['rows'].values()):.0f} nats",
        f"by {abs(found['finer'] - found['rows']['the galaxy']['nats'][0])} nat",
    ):
        assert said in page, said
    figures = report["deblurring"]
    for name in ("misfit", "error_observed", "error_mean", "spread"):
        assert f"{figures[name]:g}" in page


def test_what_the_page_concludes(report: dict[str, Any]) -> None:
    rows, figures = report["likelihood"]["rows"], report["deblurring"]
    own = rows["the galaxy"]["nats"]
    change = {
        name: [v - o for v, o in zip(row["nats"], own, strict=True)] for name, row in rows.items()
    }
    assert -1550 < min(change["noise of 0.1 in x more"]) < max(change["noise of 0.1 in x more"])
    assert max(change["noise of 0.1 in x more"]) < -1300
    turned = change["mirrored"] + change["turned by 90°"]
    assert (min(turned), max(turned)) == (-36, -9)
    assert change["blurred by one pixel"][1] == 400
    assert figures["samples"] == 6 and figures["steps"] == 100
    assert figures["misfit"] == pytest.approx(1, abs=0.05)
    assert figures["error_mean"] < 0.6 * figures["error_observed"]
    assert figures["spread"] == pytest.approx(figures["error_mean"], rel=0.25)
