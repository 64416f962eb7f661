"""Targets and reports that the tests of the benchmark on exact scores share."""

from __future__ import annotations

from tests.helpers import ROOT

RESULTS = ROOT / "benchmarks" / "results"


SAVED = ("accuracy-cpu", "accuracy-held-out-cpu")
