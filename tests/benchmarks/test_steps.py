"""benchmarks/steps.py, and the page that shows what it saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT

PICTURES = ROOT / "docs" / "_static" / "steps"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "steps-cpu.json").read_text())


@pytest.fixture(scope="module")
def errors(report: dict[str, Any]) -> dict[str, dict[int, dict[str, float]]]:
    """Sampler → evaluations wanted → what was measured."""
    return {name: {row["wanted"]: row for row in rows} for name, rows in report["errors"].items()}


def test_the_page_says_what_was_saved(
    script: Callable[[str], ModuleType], report: dict[str, Any]
) -> None:
    benchmark, page = script("steps"), (ROOT / "docs" / "howto" / "steps.md").read_text("utf-8")
    assert benchmark.table(report) in page
    assert script("machine").machine_sentence(report) in page
    assert f"{report['patches']} patches of {report['side']}×{report['side']}" in page
    assert f"from {report['largest_mode']:.0f} down to {report['smallest_mode']:.4f}" in page
    assert f"`{type(ss.VPSDE()).__name__}()`" in page and report["sde"] == repr(ss.VPSDE())
    for name in ("against-steps.png", "by-mode.png"):
        assert f"../_static/steps/{name}" in page
        assert (PICTURES / name).read_bytes().startswith(b"\x89PNG")


def test_what_the_page_concludes(
    report: dict[str, Any], errors: dict[str, dict[int, dict[str, float]]]
) -> None:
    w2 = {name: {n: row["w2"] for n, row in rows.items()} for name, rows in errors.items()}
    adams, best = w2["the same, corrected"], w2["recommended_sampler"]
    for name in ("ancestral", "DDIM"):
        assert w2[name][100] / w2[name][200] == pytest.approx(2, rel=0.1)
        assert w2[name][200] > 0.01
    assert adams[20] > 0.01 > adams[30]
    assert best[6] > 0.01 > best[8]
    assert w2["Heun"][20] > w2["DDIM"][20] and w2["Heun"][30] < w2["DDIM"][30]
    # The floors, and the cancellation.
    last = errors["the same, corrected"][200]
    assert (f"{last['w2_of_prior']:.4f}", f"{last['w2_of_end']:.4f}") == ("0.0018", "0.0019")
    assert last["w2_of_steps"] < 1e-4
    assert adams[50] < adams[200]
    assert errors["the same, corrected"][50]["w2_of_steps"] > 5e-4
    # Every wavelength.
    shown = report["by_mode"]["relative_std"]
    assert shown["DDIM, equal steps in t"][-1] < -0.5 < shown["DDIM, equal steps in t"][0]
    assert shown["DDIM"][-1] == pytest.approx(shown["DDIM"][0], rel=0.1)
    # Cosines against principal components.
    for name, (row,) in report["errors_on_principal_components"].items():
        change = abs(row["w2"] / w2[name][20] - 1)
        assert (change > 0.5) if name == "recommended_sampler" else (change < 0.07)


def test_steps_that_are_too_wide_make_up_for_a_prior_and_an_end_that_are_too_narrow(
    script: Callable[[str], ModuleType], report: dict[str, Any]
) -> None:
    rings = torch.tensor(report["by_mode"]["variance"], dtype=torch.float64)
    sampler = script("steps").samplers(rings, (50,))["the same, corrected"][50]
    error = ss.analysis.gaussian_error(sampler, rings)
    assert (error.ended_variance < error.data_variance).all()
    assert (error.variance < error.started_variance).all()
    assert (error.started_variance > error.ended_variance).double().mean() > 0.8


def test_a_small_run_gives_the_numbers_it_draws(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = script("steps")
    monkeypatch.setattr(benchmark, "BY_MODE", 9)
    monkeypatch.setattr(
        ss, "recommended_sampler", lambda sde, n, spectrum, score_error: equal(sde, n)
    )
    rng = np.random.default_rng(0)
    patches = 0.3 * rng.standard_normal((60, 32, 32)).cumsum(1).cumsum(2) / 32
    found = benchmark.run(tmp_path, patches, (4, 9))
    assert (found["patches"], len(found["errors"])) == (60, 7)
    assert [row["evaluations"] for row in found["errors"]["DDIM"]] == [4, 9]
    assert [row["evaluations"] for row in found["errors"]["Heun"]] == [3, 9]
    for name in ("against-steps.png", "by-mode.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    # An orthonormal transform keeps the total variance, and W2 is over its root.
    centred = torch.from_numpy(patches - patches.mean(0))
    total = centred.square().sum((1, 2)).mean().item()
    assert found["total_variance"] == pytest.approx(total, rel=1e-3)
    spectrum = benchmark.power_of(patches).spectrum
    oracle = ss.analysis.gaussian_error(equal(ss.VPSDE(), 9), spectrum).w2.item() / total**0.5
    assert found["errors"]["recommended_sampler"][1]["w2"] == pytest.approx(oracle, rel=1e-3)


def equal(sde: ss.LinearSDE, n: int) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(sde, predictor=ss.DDIM(eta=0.0), steps=n)


def test_a_wave_is_found_at_its_wavelength(script: Callable[[str], ModuleType]) -> None:
    benchmark = script("steps")
    x = np.arange(32) + 0.5
    sign = np.array([1.0, -1.0])[:, None, None]
    for length in (4.0, 8.0, 32.0):
        wave = np.cos(2 * np.pi * x / length)
        for patch in (np.tile(wave, (32, 1)), np.tile(wave[:, None], (1, 32))):
            power = benchmark.power_of(sign * patch)
            assert power.wavelength[power.rings.argmax()].item() == length
            assert power.spectrum[0].item() == pytest.approx(power.spectrum.sum().item())
            assert power.spectrum.sum().item() == pytest.approx((patch**2).sum())


@pytest.mark.parametrize(
    ("share", "said"), [(11.68, "1168 %"), (0.153, "15 %"), (0.0282, "2.8 %"), (0.00217, "0.22 %")]
)
def test_percent(script: Callable[[str], ModuleType], share: float, said: str) -> None:
    assert script("steps").percent(share) == said


def test_photographs_are_cut_into_grey_patches(script: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("skimage")
    patches = script("steps").grey_patches()
    assert patches.shape[1:] == (32, 32)
    assert -1 <= patches.min() < -0.9 and 0.9 < patches.max() <= 1
