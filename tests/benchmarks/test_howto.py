"""The script that draws the pictures of the how-to pages runs the pages' own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT

PAGES = ("time-series", "tables", "conditions", "img2img-and-interpolation")


@pytest.mark.parametrize("page", PAGES)
def test_the_pictures_of_a_page_are_there(page: str) -> None:
    text = (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")
    pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line[:2] == "!["]
    assert pictures
    assert all((ROOT / "docs" / "howto" / picture).resolve().is_file() for picture in pictures)


@pytest.mark.slow
def test_a_page_runs_for_the_steps_asked_for(
    tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    howto = script("howto")
    assert set(howto.PAGES) == set(PAGES)
    names = howto.run("time-series", 2)
    assert names["STEPS"] == len(names["result"].losses) == 2
    howto.PAGES["time-series"](names, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"series.png", "forecasts.png"}
