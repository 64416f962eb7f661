"""The README and the page of results say what the saved results and the documentation say."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import sdescore as ss
from tests.helpers import ROOT

CLASSICAL = ("Euler–Maruyama", "reverse diffusion", "ancestral", "reverse diffusion + Langevin")
# The first seven rows of the ten lines' table, of which at most 1 % may be far from the data.
BARRED = ("reverse diffusion + Langevin", "Euler–Maruyama", "ancestral", "DDIM", "Heun",
          "exponential Adams", "recommended")  # fmt: skip
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tables")


def test_the_example_is_the_one_that_the_documentation_runs() -> None:
    assert (ROOT / "docs" / "ten_lines.py").read_text() in README


def test_the_loop_to_write_oneself_runs() -> None:
    loop = README.split("```python\n")[2].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(loop, "README.md", "exec", dont_inherit=True), names)
    assert names["loss"].isfinite()


def test_the_tables_are_those_of_the_saved_results(tables: ModuleType) -> None:
    assert tables.demo_table(tables.load("demo-cpu")) in RESULTS
    assert tables.overhead_table(tables.load("overhead-cpu")) in RESULTS
    assert tables.training_table(tables.load("training-cpu")) in RESULTS
    assert tables.scaling_table(tables.load("scaling-cpu")) in RESULTS
    assert tables.accuracy_table(tables.load("accuracy-cpu")) in RESULTS
    held_out = tables.load("accuracy-held-out-cpu")
    assert tables.accuracy_table(held_out, (5, 8, 10)) in RESULTS
    assert tables.noise_sentence(tables.load("overhead-cpu")) in " ".join(RESULTS.split())


def test_what_is_said_of_networks_is_saved(tables: ModuleType) -> None:
    ours, others = [], []
    for part in tables.load("trained-cpu").values():
        five = {row["method"]: row["cells"]["5"]["fd"] for row in part["rows"]}
        ours.append(f"{five['recommended']:.2f}")
        rest = [fd for method, fd in five.items() if not method.startswith("recommended")]
        others.append(f"{min(rest):.2f}")
    said = [f"{', '.join(values[:-1])} and {values[-1]}" for values in (ours, others)]
    text = f"{said[0]} times the real-against-real distance where the best other reads {said[1]}"
    assert text in " ".join(RESULTS.split())


def test_the_saved_results_meet_the_bars(tables: ModuleType) -> None:
    for model in tables.load("demo-cpu")["models"].values():
        for row in model["samplers"].values():
            assert row["sliced_w2"]["relative"] <= 3 and row["classes"] == 10
    report = tables.load("overhead-cpu")
    for row in report["samplers"]:
        if row["shape"] == [64, 2]:
            assert row["ratio_to_bare"] <= 2  # microseconds are the machine's
        elif row["method"] in CLASSICAL:
            assert row["ratio_to_bare"] <= 1.2
        else:
            assert row["ratio_to_bare"] <= (1.6 if row["method"] == "DDIM" else 1.8)
    large, small = report["noise"]
    assert large["ratio_to_randn"] <= 1.2 and small["ratio_to_randn"] <= 2.0


def test_the_table_of_conventions_is_the_saved_one() -> None:
    saved = (ROOT / "benchmarks" / "results" / "defaults-cpu.md").read_text(encoding="utf-8")
    assert saved[saved.index("| SDE") :].strip() in RESULTS


def test_the_figures_of_the_ten_lines_are_the_saved_ones(tables: ModuleType) -> None:
    rows = tables.load("readme-cpu")["rows"]
    for name in {row["sampler"] for row in rows}:
        mine = [row for row in rows if row["sampler"] == name]
        far = ", ".join(f"{row['far']:.2f}" for row in mine)
        largest = max(row["largest"] for row in mine)
        assert f"| {name} | {mine[0]['evaluations']} | {far} | {largest:.2f} |" in RESULTS
        assert largest < 5
        if name in BARRED:
            assert max(row["far"] for row in mine) <= 1


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_citation_is_that_of_the_documentation() -> None:
    assert (ROOT / "docs" / "cite.bib").read_text(encoding="utf-8") in README


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 680


def test_the_changelog_names_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{ss.__version__}] - 20" in changelog
