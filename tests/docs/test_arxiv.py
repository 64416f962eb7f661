"""A paper's arXiv number is a link, in a page and a docstring; not in code or a heading."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytest.importorskip("sphinx")
from sphinx.application import Sphinx

PAGE = """Of arXiv:2006.11239
===================

Song et al. 2021, arXiv:2011.13456, eq. 7 (arXiv:1907.05600).
And ``arXiv:2206.00364`` as code, `arXiv:2206.00927 <https://example.org>`_ as a link.
"""


def test_numbers_of_papers_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.rst").write_text(PAGE)
    said = {"status": None, "warning": StringIO()}
    options = {"extensions": ["arxiv"], "html_theme": "basic"}
    Sphinx(docs, None, tmp_path / "out", tmp_path / "trees", "html", options, **said).build()
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="https://arxiv.org/abs/([^"]+)">arXiv:([^<]+)</a>', html)
    assert links == [("2011.13456", "2011.13456"), ("1907.05600", "1907.05600")]
    assert "</a>, eq. 7 (<a" in html
