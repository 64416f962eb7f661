"""The documentation's table of predictors: every class, and orders that are what they claim."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import pytest

import sdescore as ss
from tests.helpers import ROOT
from tests.helpers.methods import PREDICTORS
from tests.helpers.operators import OPERATORS

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
    assert len(predictors) == len(PREDICTORS)
    for (call, row), example in zip(predictors.items(), PREDICTORS, strict=True):
        made = eval(f"ss.predictors.{call}", {"ss": ss})
        assert made == example
        assert row["order"] == str(made.order)
        assert row["evaluations"] == str(made.evaluations)
        assert row["noises"] == str(made.noises)


def test_the_families_are_shown_whole(predictors: dict[str, dict[str, str]]) -> None:
    adams = [p for p in PREDICTORS if isinstance(p, ss.ExponentialAdams)]
    assert {p.points for p in adams if not p.eta and not p.corrector_points} == {1, 2, 3, 4}
    assert any(p.corrector_points for p in adams)
    assert any(p.eta for p in adams)
    solvers = [p for p in PREDICTORS if isinstance(p, ss.predictors.ExponentialRungeKutta)]
    for stages in (1, 2, 3):
        for eta, output in ((0.0, "x0"), (0.0, "epsilon"), (1.0, "epsilon")):
            assert ss.predictors.ExponentialRungeKutta(eta, stages, output) in solvers
    assert "ExponentialRungeKutta(eta=1, stages=3, output='epsilon')" in predictors


def test_measured_orders_are_the_declared_ones(predictors: dict[str, dict[str, str]]) -> None:
    for call, row in predictors.items():
        if row["measured"] == "—":
            assert call.startswith(("NoPredictor", "Multistep"))
        else:
            assert abs(float(row["measured"]) - float(row["order"])) < 0.1 - 1e-9, (call, row)


def test_heads_and_cells_agree(tables: ModuleType) -> None:
    for name in ("correctors", "sdes", "operators"):
        heads, rows = tables.OF[name]
        found = list(rows())
        assert found
        assert all(len(row) == len(heads.split(", ")) for row in found)


def test_every_example_of_an_operator_has_a_row(tables: ModuleType) -> None:
    """With the rank and the singular values of its matrix; none where it has no matrix."""
    rows = tables.rows_of("operators")
    assert [row[0] for row in rows] == [type(operator).__name__ for operator in OPERATORS.values()]
    (grey,) = tables.rows_of("operators", "Grayscale")
    norm = math.sqrt(0.299**2 + 0.587**2 + 0.114**2)  # of ITU-R BT.601's weights, for each pixel
    assert grey[1:] == [
        "3 × 2 × 2", "1 × 2 × 2", "yes", "4", f"{norm:.3g} … {norm:.3g}", "closed form",
    ]  # fmt: skip
    assert ["Callable", "2", "2", "no", "—", "—", "—"] in rows


def test_orders_are_measured_and_not_declared(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boastful(ss.DDIM):
        order = 2

    assert tables.measured(Boastful(eta=0.0)) == "1.0"
    monkeypatch.setattr(tables, "STEPS", 8)
    assert tables.measured(ss.ExponentialAdams(points=4)) != "3.0"  # far from its limit
