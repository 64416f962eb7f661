"""benchmarks/posterior.py: its exact answers, its script at tiny sizes, and the page of results."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

import pytest
import torch

from tests.helpers import ROOT

Script: TypeAlias = Callable[[str], ModuleType]


def test_the_page_has_the_saved_tables(script: Script) -> None:
    benchmark, report = script("posterior"), script("tables").load("posterior-cpu")
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert benchmark.table(report) in page
    assert benchmark.cost_table(report) in page
    assert f"azula {report['azula']}" in page


def test_the_saved_figures_keep_their_bounds(script: Script) -> None:
    """What the page says of 6 dimensions, and that no method is worse than azula's there."""
    report = script("tables").load("posterior-cpu")
    found = {(r["d"], r["problem"], r["method"]): r for r in report["rows"]}
    for name in script("posterior").PROBLEMS:
        assert found[6, name, "TwistedSMC(moments)"]["w2"] <= 1.5
        for ours, theirs in (("dps", "DPS"), ("pigdm", "ΠGDM"), ("mmps", "MMPS")):
            row = found.get((6, name, f"azula {theirs}"))
            if row is not None and (name, ours) != ("nonlinear", "dps"):  # where both diverge
                assert found[6, name, ours]["w2"] <= row["w2"]


@pytest.mark.parametrize("name", ["inpaint", "nonlinear"])
def test_the_exact_answer_is_importance_sampling(script: Script, name: str) -> None:
    """Of 200,000 draws of the prior in 2-D: evidence and mean within 5 standard errors (6e-7)."""
    task = script("posterior_problems").problem(name, 2, 0)
    x = task.prior.sample(200_000, seed=9, dtype=torch.float64)
    weights = task.measurement.log_likelihood(x).exp()
    evidence = weights.mean()
    assert abs(evidence - math.exp(task.log_evidence)) <= 5 * weights.std() / len(x) ** 0.5
    mean = weights @ x / weights.sum()
    spread = (weights[:, None] * (x - mean)).std(0) / evidence / len(x) ** 0.5
    exact = task.draw(20_000, 1).double()
    spread = (spread.square() + exact.var(0) / len(exact)).sqrt()
    assert bool(((mean - exact.mean(0)).abs() <= 5 * spread).all())


@pytest.mark.slow
def test_the_script_runs(script: Script) -> None:
    benchmark = script("posterior")
    rows = benchmark.rows({2: 20}, {2: 1}, ("inpaint", "nonlinear"), peers=False)
    assert len(rows) == len(benchmark.OURS) * 2 - 2  # two project on linear operators alone
    assert all(math.isfinite(row["w2"]) and row["evaluations"] > 0 for row in rows)
    report = {"rows": rows}
    assert benchmark.table(report).count("\n") == len(benchmark.OURS) + 1
    assert "mmps" in benchmark.cost_table(report)
