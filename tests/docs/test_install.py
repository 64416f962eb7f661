"""The page on installing says what the package asks for, and its command prints what it says."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
FLAT = " ".join(PAGE.split())


def test_the_command_prints_what_the_page_says() -> None:
    code = dedent(PAGE.split('python -c "\n')[1].split('\n    "')[0])
    printed = PAGE.split("It prints:\n\n")[1].splitlines()[0].strip()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == (printed, 0), run.stderr


def test_the_versions_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.10"' in project and "Python 3.10 or newer" in FLAT
    assert '"torch>=2.4"' in project and "PyTorch 2.4 is the oldest" in FLAT
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = constraints.split("torch==")[1].split()[0]
    assert PAGE.count(pinned) == 3
    for extra in ("demo", "docs", "dev", "bench"):
        assert f"\n{extra} = [" in project and f'".[{extra}]"' in PAGE
