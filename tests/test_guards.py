"""Every known mistake, trap and bar is named by a test that guards it."""

from __future__ import annotations

import ast
from collections import Counter

from tests.guards import GUARDS
from tests.helpers import ROOT


def guarded() -> Counter[str]:
    """How many tests name each id in ``@pytest.mark.guards(...)``."""
    found: Counter[str] = Counter()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.guards":
                found.update(ast.literal_eval(argument) for argument in node.args)
    return found


def test_every_id_has_a_test_and_every_test_a_known_id() -> None:
    assert set(guarded()) == set(GUARDS)
