"""The search of the built pages shows first what was meant, in a real browser.

It needs the pages (``make docs``) and Debian's or another ``chromium``; without them it is skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from urllib.parse import quote_plus

import pytest

from tests.helpers import ROOT

BUILT = ROOT / "docs" / "_build" / "html"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
MEANT = {
    "Langevin": "reference/ss.Langevin",
    "DDIM": "reference/ss.DDIM",
    "VPSDE": "reference/ss.VPSDE",
    "train": "reference/ss.train",
    "classifier free": "reference/ss.classifier_free",
    "own predictor": "howto/own-predictor",
    "own SDE": "howto/own-sde",
    "time series": "howto/time-series",
    "tables": "howto/tables",
    "how many steps": "howto/steps",
    "diffusers": "howto/diffusers",
    "score_sde checkpoint": "howto/score-sde",
    "million samples": "howto/million-samples",
    "many GPUs": "howto/many-gpus",
    "bits per dimension": "reference/ss.bits_per_dimension",
    "Fokker-Planck": "theory/11-fokker-planck",
    "exact error": "theory/13-exact-error",
    "glossary": "glossary",
    "install": "install",
    "frequent questions": "faq",
}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.skipif(not (BUILT / "searchindex.js").is_file(), reason="needs make docs")
@pytest.mark.parametrize("query", MEANT)
def test_the_first_hit_is_the_page_that_is_meant(query: str) -> None:
    page = f"{(BUILT / 'search.html').as_uri()}?q={quote_plus(query)}"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--virtual-time-budget=8000", "--dump-dom", page]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    hits = re.findall(r'<li class="kind-[^"]*"><a href="([^"]*)\.html', shown)
    assert hits and hits[0] == MEANT[query]
