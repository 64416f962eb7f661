"""The documentation runs: the ten-line example and every code block; theory pages open alike."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from sdescore.datasets import two_moons
from sdescore.metrics import sliced_wasserstein
from tests.helpers import ROOT, written_pages
from tests.helpers.pages import FENCE, run_page

DOCS = ROOT / "docs"
PAGES = [page for page in written_pages() if FENCE.search(page.read_text(encoding="utf-8"))]


def case(page: Path) -> Any:
    """A page that trains is slow."""
    marks = [pytest.mark.slow] if "ss.train(" in page.read_text(encoding="utf-8") else []
    return pytest.param(page, id=page.relative_to(DOCS).as_posix(), marks=marks)


@pytest.mark.parametrize("page", [case(page) for page in PAGES])
def test_code_blocks_run_and_print_what_they_say(page: Path) -> None:
    run_page(page)


def test_a_wrong_output_in_a_page_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```pycon\n>>> x + 1\n3\n\n```\n")
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run_page(page)


@pytest.mark.slow
def test_the_ten_line_example() -> None:
    """At most ten lines; the network sees a bounded number of states, and the samples are moons."""
    source = (DOCS / "ten_lines.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 10
    names: dict[str, Any] = {}
    states: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, ss.MLP):
            states.append(len(inputs[0]))

    with torch.nn.modules.module.register_module_forward_pre_hook(count):
        exec(compile(source, "ten_lines.py", "exec", dont_inherit=True), names)
    assert 0 < sum(states) < 1_700_000  # 14 seconds on one core, by benchmarks/readme.py
    fresh = two_moons(1000, seed=1)
    # Two sets of moons are 0.12 apart, moons and a Gaussian like them 0.41.
    assert sliced_wasserstein(names["x"], fresh) < 0.25
    angle = math.pi * torch.linspace(0, 1, 501)
    arc = 2 * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    off = torch.cdist(names["x"], torch.cat([arc, -arc])).min(1).values
    assert (off > 0.3).double().mean() < 0.015 and names["x"].norm(dim=1).max() < 5


@pytest.mark.parametrize("page", sorted((DOCS / "theory").glob("*.md")), ids=lambda p: p.stem)
def test_a_theory_page_opens_with_a_short_summary_and_a_picture(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    opening = re.match(r"# [^\n]+\n\n:::\{admonition\} In short\n((?:- [^\n]+\n)+):::\n\n!", text)
    assert opening, "expected a title, an admonition of one-line points, and a picture"
    points = opening[1].splitlines()
    assert 3 <= len(points) <= 5
    shown = [re.sub(r"\\[a-z]+|\{py:\w+\}|[$`{}\\]|\]\([^)]*\)", "", point) for point in points]
    assert all(len(point) <= 110 for point in shown), "expected each point on one line"
    assert "$" in opening[1] and re.search(r"`ss\.|`sde\.", opening[1])
    picture = re.search(
        r"!\[[^\]]{20,}\]\(\.\./(_static/[^)]+\.png)\)\n\n\*", text[opening.end() - 1 :]
    )
    assert picture and (DOCS / picture[1]).exists(), "expected a picture with a text and a caption"
