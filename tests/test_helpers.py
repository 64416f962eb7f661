"""What several tests use lies in tests/helpers: no test module imports another one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

# Also in code that a test hands to another process.
IMPORT = re.compile(r"^\s*(?:from|import) +((?:tests\b|\.)[\w.]*)", re.MULTILINE)
SHARED = re.compile(r"tests\.(helpers|guards)\b")
FILES = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_tests_import_only_helpers(path: Path) -> None:
    names = IMPORT.findall(path.read_text(encoding="utf-8"))
    assert not [name for name in names if not SHARED.match(name)]


def test_an_import_of_a_test_is_seen() -> None:
    text = "from tests.sde.test_vp import x\n    import tests.sde\nfrom . import test_vp\n"
    assert [SHARED.match(name) for name in IMPORT.findall(text)] == [None] * 3
