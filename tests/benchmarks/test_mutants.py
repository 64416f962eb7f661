"""The mutants are the changes that they are said to be, and the tests meet them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
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
INDICES = """
def ends(x):
    return x[1:], x[:-1], x[-1], x[::-1], max(x), ", ".join(x) + " and"

def draw():
    return Domain.PRIOR, Domain.SAMPLER
"""


@pytest.fixture
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("mutation")


def found(tool: ModuleType, source: str) -> set[tuple[str, str]]:
    return {(mutant.old, mutant.new) for mutant in tool.mutants("x.py", source)}


def test_the_mutants_of_a_function(tool: ModuleType) -> None:
    assert found(tool, SOURCE) == {
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


def test_other_ends_and_reused_noise(tool: ModuleType) -> None:
    assert found(tool, INDICES) == {
        ("x[1:]", "(x[:-1])"),
        ("x[:-1]", "(x[1:])"),
        ("x[-1]", "(x[0])"),
        ("x[::-1]", "(x[:])"),
        ("max(x)", "(min(x))"),
        ("Domain.PRIOR", "(Domain.SAMPLER)"),
        ("Domain.SAMPLER", "(Domain.CLEAN)"),
    }


def test_a_mutant_differs_in_its_place_alone(tool: ModuleType) -> None:
    for mutant in tool.mutants("x.py", SOURCE):
        changed = mutant.source(SOURCE)
        assert changed != SOURCE
        assert changed.replace(mutant.new, mutant.old, 1) == SOURCE
        compile(changed, "x.py", "exec")


def test_a_place_of_several_lines_moves_no_line_below(tool: ModuleType) -> None:
    source = "def f(a):\n    return (a\n        + 1)\n\ndef g(): ...\n"
    for mutant in tool.mutants("x.py", source):
        changed = mutant.source(source)
        assert changed.splitlines().index("def g(): ...") == 4
        compile(changed, "x.py", "exec")


def test_every_room_of_the_mathematics_has_tests(script: Callable[[str], ModuleType]) -> None:
    mutants = script("mutants")
    for room in (*mutants.ROOMS, *mutants.MORE_TESTS):
        assert (ROOT / "tests" / room).is_dir()


def test_a_changed_method_is_swapped_where_it_is_loaded(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrapped functions, too, and no other method of the class."""
    fork, file = script("mutants_fork"), tmp_path / "loaded.py"
    source = (
        "import contextlib\n"
        "class A:\n"
        "    def double(self, x):\n        return 2 * x\n"
        "    @property\n"
        "    def ten(self):\n        return 5 + 5\n"
        "@contextlib.contextmanager\n"
        "def four():\n    yield 2 * 2\n"
    )
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = __import__("loaded")
    server = fork.Server(lambda server: None)
    server.note_functions(str(tmp_path))
    try:
        for old, new, got in (
            ("2 * x", "3 * x", (9, 10, 4)),
            ("5 + 5", "5 - 5", (9, 0, 4)),
            ("2 * 2", "2 / 2", (9, 0, 1.0)),
        ):
            text = source.replace(old, new)
            assert server.swap(fork.Changed("loaded", str(file), text))
            with loaded.four() as four:
                assert (loaded.A().double(3), loaded.A().ten, four) == got
        constant = source.replace("contextlib\nclass", "contextlib; B = 1\nclass")
        assert not server.swap(fork.Changed("loaded", str(file), constant))
    finally:
        del sys.modules["loaded"]


def test_the_score_is_the_mean_over_rooms_by_their_size(
    script: Callable[[str], ModuleType],
) -> None:
    """Against the textbook's stratified estimate, with one more of each fate for the variance."""
    report = script("mutants_report")
    rooms = [
        report.Room("a", 100, [(None, "killed")] * 9 + [(None, "survives")]),
        report.Room("b", 300, [(None, "endless")] * 20 + [(None, "survives")] * 2, equivalent=2),
    ]
    mean, half = report.score(rooms)
    assert mean == pytest.approx((100 * 0.9 + 300) / 400)
    a, b = 10 / 12 * 2 / 12 / 10 * 0.9, 21 / 22 * 1 / 22 / 20 * (1 - 20 / 300)
    assert half == pytest.approx(1.96 * math.sqrt(0.25**2 * a + 0.75**2 * b))
