"""The mutants are the changes that they are said to be, each in one place."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.helpers import ROOT

SOURCE = '''
"""x + y in words: no place."""


def step(alpha: float, sigma: float, t, s, xs):
    λ = 2 * alpha + 1
    if 0 < t < s:
        raise ValueError(f"{t - s}")
    return -xs[0] * sigma.sqrt() / λ
'''


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks" / "mutants.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_mutants_of_a_function(tool: ModuleType) -> None:
    found = {(m.old, m.new) for m in tool.mutants("x.py", SOURCE)}
    assert found == {
        ("2 * alpha + 1", "(2 * alpha - 1)"),
        ("2 * alpha + 1", "(2 * alpha + 2)"),
        ("2 * alpha", "(2 / alpha)"),
        ("2 * alpha", "(alpha)"),
        ("alpha", "(sigma)"),
        ("0 < t < s", "(0 <= t < s)"),
        ("t", "(s)"),
        ("s", "(t)"),
        ("-xs[0] * sigma.sqrt() / λ", "(-xs[0] * sigma.sqrt() * λ)"),
        ("-xs[0] * sigma.sqrt()", "(-xs[0] / sigma.sqrt())"),
        ("-xs[0]", "(xs[0])"),
        ("xs[0]", "(xs[-1])"),
        ("sigma.sqrt()", "(sigma)"),
        ("sigma", "(alpha)"),
    }


def test_a_mutant_differs_in_its_place_alone(tool: ModuleType) -> None:
    for mutant in tool.mutants("x.py", SOURCE):
        assert mutant.source != SOURCE
        assert mutant.source.replace(mutant.new, mutant.old, 1).count("\n") == SOURCE.count("\n")
        compile(mutant.source, "x.py", "exec")


def test_every_room_of_the_mathematics_has_tests(tool: ModuleType) -> None:
    for room, others in tool.ROOMS.items():
        assert all((ROOT / "tests" / name).is_dir() for name in (room, *others))
