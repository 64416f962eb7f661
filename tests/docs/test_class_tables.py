"""The documentation's table of predictors: every class, and orders that are what they claim."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import sdescore as ss
from tests.helpers import ROOT

PATH = ROOT / "docs" / "class_tables.py"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("class_tables", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def predictors(tables: ModuleType) -> dict[str, dict[str, str]]:
    """Call → head → cell."""
    heads = tables.OF["predictors"][0].split(", ")
    rows = [dict(zip(heads, row, strict=True)) for row in tables.OF["predictors"][1]()]
    assert len({row["predictor"] for row in rows}) == len(rows)
    return {row["predictor"]: row for row in rows}


def test_every_predictor_has_a_row_and_its_call_makes_what_the_row_says(
    predictors: dict[str, dict[str, str]],
) -> None:
    folder = Path(ss.predictors.__path__[0])
    texts = [file.read_text(encoding="utf-8") for file in folder.glob("*.py")]
    kinds = {name for text in texts for name in re.findall(r"^class (\w+)\(", text, re.M)}
    kinds -= {"Predictor", "EtaPredictor"}
    assert {call.split("(")[0] for call in predictors} == kinds
    for call, row in predictors.items():
        made = eval(f"ss.predictors.{call}", {"ss": ss})
        assert row["order"] == str(made.order)
        assert row["evaluations"] == row["stages J"] == str(made.evaluations)
        assert row["noise"] == ("yes" if made.stochastic else "no")


def test_the_families_are_shown_whole(predictors: dict[str, dict[str, str]]) -> None:
    adams = [call for call in predictors if call.startswith("ExponentialAdams")]
    assert {f"ExponentialAdams(points={p})" for p in (1, 2, 3, 4)} <= set(adams)
    assert any("corrector_points" in call for call in adams)
    assert any("eta=1," in call for call in adams)
    for stages in (1, 2, 3):
        for given in (
            f"stages={stages}, output='x0'",
            f"stages={stages}, output='epsilon'",
            f"eta=1, stages={stages}, output='epsilon'",
        ):
            assert f"ExponentialRungeKutta({given})" in predictors


def test_measured_orders_are_the_declared_ones(predictors: dict[str, dict[str, str]]) -> None:
    """At 256 steps; where two terms of the error are of opposite sign the limit is farther."""
    slow = {
        "ExponentialAdams(points=4)": 0.5,
        "ExponentialAdams(points=3, corrector_points=4)": 0.4,
    }
    for call, row in predictors.items():
        if row["measured"] == "—":
            assert call.startswith(("NoPredictor", "Multistep"))
        else:
            off = abs(float(row["measured"]) - float(row["order"]))
            assert off <= slow.get(call, 0.1) + 1e-9, (call, row)


def test_heads_and_cells_agree(tables: ModuleType) -> None:
    for name in ("correctors", "sdes"):
        heads, rows = tables.OF[name]
        found = list(rows())
        assert found
        assert all(len(row) == len(heads.split(", ")) for row in found)


def test_orders_are_measured_and_not_declared(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boastful(ss.DDIM):
        order = 2

    assert tables.measured(Boastful(eta=0.0)) == "1.0"
    monkeypatch.setattr(tables, "STEPS", 8)
    assert tables.measured(ss.Ancestral()) != "1.0"  # far from its limit at 8 steps
