"""The page on results says what benchmarks/flow_network.py saved, and its solvers agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT


def test_the_page_has_the_saved_tables(script: Callable[[str], ModuleType]) -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "flow-network-cpu.json").read_text())
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    benchmark = script("flow_network")
    assert benchmark.time_table(report) in page
    assert benchmark.moved_table(report) in page


@pytest.mark.parametrize("method", ["RK45", "DOP853"])
def test_both_solve_one_equation(script: Callable[[str], ModuleType], method: str) -> None:
    benchmark = script("flow_network")
    torch.manual_seed(0)
    net = ss.MLP(3, hidden=8).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model = ss.ScoreModel(net, benchmark.SDE, prediction="epsilon", time_input="t")
    x = torch.randn(4, 3, dtype=torch.float64)
    ours = benchmark.ours(model, x, 1e-8)
    size = ours.abs().max().item()
    assert benchmark.worst(benchmark.scipys(model, x, 1e-8, method), ours) < 1e-5 * size
