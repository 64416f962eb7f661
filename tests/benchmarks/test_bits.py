"""benchmarks/bits.py, and the page that shows what it saved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "bits-cpu.json").read_text())


def test_the_page_says_what_was_saved(
    script: Callable[[str], ModuleType], report: dict[str, Any]
) -> None:
    page = (ROOT / "docs" / "howto" / "bits-per-dimension.md").read_text("utf-8")
    assert script("bits").table(report) in page
    assert script("machine").machine_sentence(report) in page
    for name in ("solver", "prior", "stopping"):
        assert f"{report['errors'][name]:g}".replace("-", "−") in page


def test_the_digits_are_split_and_dequantized(script: Callable[[str], ModuleType]) -> None:
    benchmark = script("bits")
    seen, held = benchmark.split()
    assert len(seen) == 1500 and len(held) == 297
    data = benchmark.dequantized(seen[:3], copies=2)
    assert torch.equal(((data + 1) * 8).round() / 8 - 1, torch.cat([seen[:3], seen[:3]]))
    assert (data[:3] != data[3:]).all()


def test_the_rows_of_an_exact_score(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a Gaussian, whose density is known: 8 bits of nothing but its own width."""
    benchmark = script("bits")
    monkeypatch.setattr(benchmark, "FEW", 2)
    monkeypatch.setattr(benchmark, "DRAWS", 2)
    score = ss.GaussianScore(torch.zeros(64), 0.5, ss.VPSDE())
    held = benchmark.split()[1][:4]
    rows = benchmark.rows_of(score, held)
    v = ss.samplers.dequantize(held, levels=17)
    want = benchmark.in_bits(score.log_prob(v, 0.0)).mean().item()
    assert rows[0]["bits"] == pytest.approx(want, abs=2e-3)
    named = {(row["name"], row.get("probes")): row for row in rows}
    for name in (("Hutchinson", 9), ("Hutch++", 21)):  # exact on a multiple of the identity
        assert named[name]["rms"] < 2e-3
    assert rows[-2]["bits"] < rows[-1]["bits"]  # importance weights tighten
    errors = benchmark.errors_of(score, held + 0, held)
    assert errors["digits"] == 2 and abs(errors["solver"]) < 1 and math.isfinite(errors["prior"])
