"""Runs the code of a page of the documentation."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(page: Path) -> dict[str, Any]:
    """Run a page's blocks in order in one namespace; ``>>>`` blocks must print what they say."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": page.stem}
    runner = doctest.DocTestRunner(verbose=False)
    for block in FENCE.finditer(text):
        kind, code = block.groups()
        line = text.count("\n", 0, block.start(2))
        if kind == "python":
            # Line numbers of a traceback are the page's.
            exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), names)
            continue
        test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
        report: list[str] = []
        failed = runner.run(test, out=report.append, clear_globs=False).failed
        assert not failed, "".join(report)
        names = test.globs
    return names
