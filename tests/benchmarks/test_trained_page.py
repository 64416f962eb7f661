"""The benchmark on networks: the saved results and the page on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT

# diffusers 0.42 on NumPy 2.


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "trained-cpu.json").read_text())


# The saved results and the page


ADAMS, RECOMMENDED = "Adams 2 corrected with 3, log-SNR", "recommended"


EXACT, FREE = "recommended, exact score", "recommended, free weights"


MIDPOINT, NOISY = "Adams 2 midpoint, quadratic", "Adams 2, η = 1, log-SNR"


ANCESTRAL, LINSPACE = "ancestral, uniform", "DPM++2M, linspace"


def cells_of(part: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Method → N → cell."""
    return {
        row["method"]: {int(n): cell for n, cell in row["cells"].items()} for row in part["rows"]
    }


@pytest.fixture(scope="module")
def page() -> str:
    text = (ROOT / "docs" / "howto" / "trained.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "_static" / "trained" / "trained.png").is_file()
    assert "(../_static/trained/trained.png)" in text
    return text


def test_the_page_shows_the_saved_results(
    script: Callable[[str], ModuleType], shown: ModuleType, report: dict[str, Any], page: str
) -> None:
    assert list(report) == ["digits", "ddpm", "ncsn", "cosine"]
    for part in report.values():
        assert shown.table(part) in page
        assert f"**{part['title']}.** {shown.floor_sentence(part)}" in page
    for name in ("ddpm", "ncsn"):
        assert shown.reference_sentence(report[name]) in page
    assert shown.flow_table(report["digits"]) in page and shown.fit_table(report) in page
    errors = [f"{part['first_error']:.3f}" for part in report.values()]
    assert f"{', '.join(errors[:-1])} and {errors[-1]}" in page
    assert shown.cost_sentence(report) in page and shown.versions(report) in page
    for part in report.values():
        for row in part["rows"]:
            for made in row["made"]:
                assert script("machine").machine_sentence(made) in page
    saved = (ROOT / "benchmarks" / "results" / "trained-cpu.md").read_text(encoding="utf-8")
    assert saved == shown.markdown(report)


def test_the_saved_cells_are_those_that_are_to_run(
    trained: ModuleType, report: dict[str, Any]
) -> None:
    everyone = [("sdescore", name) for name in trained.OURS] + list(trained.THEIRS)
    for name, part in report.items():
        found = {
            (row["library"], row["method"]): [int(n) for n in row["cells"]] for row in part["rows"]
        }
        expected = {
            who: [n for n in trained.STEPS if trained.runs(name, who[1], n)] for who in everyone
        }
        assert found == {who: steps for who, steps in expected.items() if steps}


def test_the_units_and_references_are_those_of_the_page_on_mnist(report: dict[str, Any]) -> None:
    saved = json.loads((ROOT / "benchmarks" / "results" / "mnist-cpu.json").read_text())
    for name in ("ddpm", "ncsn"):
        own = saved["models"][name]
        for key, long in (("fd", "fd"), ("w2", "sliced_w2")):
            floor = report[name]["floors"][key]
            assert floor["mean"] == pytest.approx(saved["floors"][long]["mean"], rel=1e-3)
            assert report[name]["reference"][key] == own[long]["in_floors"]
        assert report[name]["reference"]["evaluations"] == own["sampling"]["evaluations"]
        assert report[name]["samples"] == saved["budget"]["samples"]


def pair(cell: dict[str, float]) -> str:
    return f"{cell['fd']:.2f} and {cell['w2']:.2f}"


def sentences(report: dict[str, Any]) -> dict[str, str]:
    """The numbers in the page's prose."""
    models = [cells_of(part) for part in report.values()]
    digits, ddpm, ncsn, _ = models
    ends = [
        (cells[name][n]["fd"], cells[name][m]["fd"])
        for cells, name, n, m in (
            (digits, ADAMS, 20, 100),
            (ddpm, ADAMS, 20, 50),
            (ncsn, RECOMMENDED, 10, 20),
        )
    ]
    off = {n: [digits[name][n]["off_flow"] for name in (RECOMMENDED, EXACT)] for n in (5, 10)}
    return {
        "plateau": "an FD of {:.2f} at 20 and {:.2f} at 100 evaluations on the first model, {:.2f} "
        "at 20 and {:.2f} at 50 on the second; `recommended` {:.2f} at 10 and {:.2f} at 20 on the "
        "third".format(*(x for two in ends for x in two)),
        "ode": f"an FD of {min(deterministic(ddpm)):.2f}",
        "ancestral": f"twenty ancestral steps read {pair(ddpm[ANCESTRAL][20])}",
        "eta": f"Adams with η = 1 {pair(ddpm[NOISY][20])}",
        "five": "; ".join(
            f"{cells[RECOMMENDED][5]['fd']:.2f} against {others(cells, 5):.2f}" for cells in models
        ),
        "as if exact": "; ".join(
            f"{digits[EXACT][n]['fd']:.2f} in place of {digits[RECOMMENDED][n]['fd']:.2f} at {n}"
            for n in (5, 10)
        ),
        "first steps": "by {:.0f} (exact score) or {:.0f} (network) at N = 5, and by {:.0f} or "
        "{:.0f} at N = 10".format(
            *(first_ratio(digits[name][n]) for n in (5, 10) for name in (EXACT, RECOMMENDED))
        ),
        "off": " and ".join(
            f"{exact['network']['median'] / ours['network']['median']:.1f} times (N = {n})"
            for n, (ours, exact) in off.items()
        ),
        "sizes": f"{report['digits']['samples']} and {report['ddpm']['samples']} samples",
    }


def others(cells: dict[str, dict[int, dict[str, Any]]], n: int, key: str = "fd") -> float:
    """The least figure at ``n`` evaluations of all that are not recommended."""
    rows = [row for name, row in cells.items() if not name.startswith("recommended")]
    return min(row[n][key] for row in rows if n in row and row[n][key] is not None)


def first_ratio(cell: dict[str, Any]) -> float:
    """By how much σ/α falls in the first step, under a DDPM's SDE."""
    alpha, sigma = ss.DiscreteVPSDE.linear().marginal(torch.tensor(cell["times"][:2]).double())
    first, second = (sigma / alpha).tolist()
    return first / second


def deterministic(cells: dict[str, dict[int, dict[str, Any]]]) -> list[float]:
    """FD of all methods but those that draw noise, at all N."""
    noisy = (ANCESTRAL, NOISY)
    return [c["fd"] for name, row in cells.items() if name not in noisy for c in row.values()]


def test_the_prose_has_the_saved_numbers(report: dict[str, Any], page: str) -> None:
    flat = " ".join(page.split())
    for sentence in sentences(report).values():
        assert sentence in flat, sentence


def test_what_the_page_concludes(report: dict[str, Any], shown: ModuleType) -> None:
    models = {name: cells_of(part) for name, part in report.items()}
    digits, ddpm, ncsn, _ = models.values()
    # Enough is ten to twenty.
    for cells, name, n, m in (
        (digits, ADAMS, 20, 100),
        (ddpm, ADAMS, 20, 50),
        (ncsn, RECOMMENDED, 10, 20),
    ):
        assert cells[name][n]["fd"] == pytest.approx(cells[name][m]["fd"], rel=0.03)
    for cells in models.values():
        second = [row[20]["fd"] for name, row in cells.items() if name in SECOND_ORDER]
        assert len(second) >= 3 and max(second) < 1.15 * min(second)
    # Noise.
    for n in (20, 50):
        for name in (ANCESTRAL, NOISY):
            assert ddpm[name][n]["fd"] < 0.8 * min(deterministic(ddpm))
    assert ddpm[ANCESTRAL][20]["w2"] > 1.4 * ddpm[NOISY][20]["w2"]
    assert ddpm[NOISY][20]["w2"] < 1.1 * ddpm[ADAMS][20]["w2"]
    assert ddpm[NOISY][10]["w2"] > 1.5 * ddpm[ADAMS][10]["w2"]
    assert ddpm[NOISY][5]["fd"] > 20 and digits[NOISY][5]["fd"] > 20
    for n in (5, 8, 10, 15, 20, 50, 100):
        for name in (ANCESTRAL, NOISY):
            for key in ("digits", "cosine"):
                assert models[key][name][n]["fd"] > shown.least(report[key], "fd", n)
    # Few evaluations.
    for cells in models.values():
        quiet = {name: row for name, row in cells.items() if name not in (ANCESTRAL, NOISY)}
        for key in ("fd", "w2"):
            assert cells[RECOMMENDED][5][key] < others(cells, 5, key)
        for n in set(cells[RECOMMENDED]) - {5}:
            assert cells[RECOMMENDED][n]["fd"] < 1.04 * others(quiet, n)


def test_what_a_networks_own_error_does(report: dict[str, Any]) -> None:
    digits, ddpm, _, cosine = (cells_of(part) for part in report.values())
    for n in (5, 8, 10, 15, 20):
        ours, exact, other = (
            digits[name][n]["off_flow"] for name in (RECOMMENDED, EXACT, MIDPOINT)
        )
        assert exact["exact"]["median"] < min(ours["exact"]["median"], other["exact"]["median"])
        assert ours["network"]["median"] < exact["network"]["median"]
        assert digits[RECOMMENDED][n]["fd"] < digits[EXACT][n]["fd"]
        assert first_ratio(digits[RECOMMENDED][n]) < first_ratio(digits[EXACT][n])
    for n in (5, 10):
        assert ddpm[RECOMMENDED][n]["fd"] < 0.9 * ddpm[EXACT][n]["fd"]
    for n in (5, 8, 10, 15, 20):
        free, times = (cells[n]["fd"] for cells in (digits[FREE], digits[RECOMMENDED]))
        assert free > 1.1 * times if n == 8 else free == pytest.approx(times, rel=0.04)
    assert cosine[RECOMMENDED][5]["fd"] < 0.95 * cosine[FREE][5]["fd"]
    assert all(cosine[FREE][n]["fd"] < cosine[RECOMMENDED][n]["fd"] for n in (8, 10, 15, 20))


SECOND_ORDER = (
    RECOMMENDED,
    ADAMS,
    "Adams 2, log-SNR",
    MIDPOINT,
    LINSPACE,
    "UniPC, exponential",
    "UniPC, Karras",
    "dpmpp_2m, exponential",
    "dpmpp_2m, Karras",
    "vAB, rectified",
)
