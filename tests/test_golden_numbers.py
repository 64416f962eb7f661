"""What a test expects comes from an oracle, never from what our own code printed."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.helpers import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))
DIGITS = 6
# Numbers that go into a call, by file; none is what a call must return.
INPUTS = {
    "predictors/test_multistage_requests.py": {"0.9999999"},
    "score/test_empirical.py": {"1.00002", "1.000005", "1.00001", "1.000013"},
    "sde/test_discrete.py": {"0.36787944117144233", "0.0820849986238988", "0.01831563888873418"},
    "sde/test_cosine.py": {"0.9999999", "0.99999990"},
}
# Numbers of the published networks' own code, and checkpoints of earlier formats, which must load.
STORED = ("nets/tables/", "checkpoint/stored/")
SNAPSHOTS = re.compile(
    r"^\s*(?:from|import) +(syrupy|snapshottest|pytest_regressions|approvaltests|inline_snapshot)\b"
    r"|\b(?:data|num|ndarrays|image|file)_regression\b",
    re.MULTILINE,
)


def long_numbers(text: str) -> set[str]:
    """The numbers with a point and many digits, as nobody types but who copies an output."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        mantissa = re.split("[eE]", token.string)[0]
        digits = mantissa.replace(".", "").replace("_", "").strip("0")
        if token.type == tokenize.NUMBER and "." in mantissa and len(digits) >= DIGITS:
            found.add(token.string)
    return found


@pytest.mark.guards("M14")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_expects_a_number_that_was_printed(path: Path) -> None:
    """Write the closed form, or compute the number by quadrature, autodiff or another library."""
    text = path.read_text(encoding="utf-8")
    assert long_numbers(text) == INPUTS.get(path.relative_to(TESTS).as_posix(), set())
    assert path == Path(__file__) or not SNAPSHOTS.search(text)


@pytest.mark.guards("M14")
def test_no_output_is_stored_beside_the_tests() -> None:
    names = [path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*") if path.is_file()]
    data = [name for name in names if not re.search(r"\.pyc?$|(^|/)\.", name)]
    assert [name for name in data if not name.startswith(STORED)] == []


def test_a_golden_number_is_seen() -> None:
    text = "assert x == [0.123456, -12.34567e-3, 0.5, 1e-12, 0.1000000]\nassert n == 123456\n"
    assert long_numbers(text) == {"0.123456", "12.34567e-3"}
    assert SNAPSHOTS.search("def test(num_regression):") and SNAPSHOTS.search("import syrupy")
