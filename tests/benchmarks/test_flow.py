"""The page on results says what benchmarks/flow.py saved, and the script still measures that."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

import pytest

import sdescore as ss
from tests.helpers import ROOT

Script: TypeAlias = Callable[[str], ModuleType]


def test_the_page_has_the_saved_tables(script: Script) -> None:
    tables = script("tables")
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert tables.flow_table(tables.load("flow-cpu")) in page
    assert tables.real_networks_table(tables.load("real-networks-cpu")) in page


@pytest.mark.parametrize("name", ["VE", "DDPM's table"])
def test_the_saved_numbers_are_measured_again(script: Script, name: str) -> None:
    """At 1e-5: the count within a step of the solver, the error within a factor of 2."""
    flow, saved = script("flow"), script("tables").load("flow-cpu")
    row = next(row for row in saved["rows"] if row["sde"] == name)
    place = saved["tolerances"].index(1e-5)
    score = ss.MixtureScore(*flow.MIXTURE.values(), flow.SDES[name])
    x = flow.points(score, flow.SDES[name])
    for kind, measure in (("ours", flow.ours), ("scipy", flow.scipys)):
        evaluations, error = measure(score, x, 1e-5)[:2]
        assert abs(evaluations - row[kind][place][0]) <= 6
        assert row[kind][place][1] / 2 < error < 2 * row[kind][place][1]
    assert max(r["ours"][place][0] for r in saved["rows"]) <= 80
    assert max(r["ours"][-1][1] for r in saved["rows"]) <= 1e-8
