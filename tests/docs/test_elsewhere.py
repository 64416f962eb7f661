"""Signatures link to PyTorch's, Python's and NumPy's documentation; a build needs no network."""

from __future__ import annotations

import importlib
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT

pytest.importorskip("sphinx")
from sphinx.application import Sphinx

DOCS = ROOT / "docs"
TEXT = (DOCS / "elsewhere.txt").read_text(encoding="utf-8")
NAMES = re.findall(r"^(\S+) (?:class|data|exception|function) \S+#(\S+)$", TEXT, re.MULTILINE)
PAGE = """Page
====

.. autoclass:: sdescore.ScoreModel
.. autofunction:: sdescore.save
.. autofunction:: sdescore.simulate
"""


def found(name: str) -> Any:
    """What a dotted name stands for; without a module, the builtin."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module or "builtins"), last)


def test_a_signature_links_to_other_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    (tmp_path / "index.rst").write_text(PAGE)
    said = {"status": None, "warning": StringIO()}
    options = {
        "extensions": ["sphinx.ext.autodoc", "elsewhere"],
        "html_theme": "basic",
        "autodoc_typehints_format": "short",
    }
    Sphinx(tmp_path, None, tmp_path / "out", tmp_path / "trees", "html", options, **said).build()
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    links = {
        text: link
        for link, text in re.findall(r'href="(https:[^"]+)"[^>]*>(?:<[^>]+>)*(\w+)', html)
    }
    assert links["Tensor"] == "https://docs.pytorch.org/docs/stable/tensors.html#torch.Tensor"
    module = "https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module"
    assert links["Module"] == module
    assert links["PathLike"] == "https://docs.python.org/3/library/os.html#os.PathLike"
    assert "inventory" not in said["warning"].getvalue()


def test_the_links_are_looked_for_before_a_name_is_left_as_text() -> None:
    conf = (DOCS / "conf.py").read_text(encoding="utf-8")
    assert conf.index('"elsewhere",') < conf.index('"reference_pages",')


@pytest.mark.parametrize(("name", "anchor"), NAMES)
def test_a_name_is_what_its_anchor_says(name: str, anchor: str) -> None:
    if anchor == "$":
        assert found(name)
    elif "." not in name or name == "nn.Module":  # as some type hints have it
        assert anchor.endswith(f".{name}") and found(anchor)
    else:
        assert found(name) is found(anchor)


def test_every_line_of_the_list_is_read() -> None:
    lines = [line for line in TEXT.splitlines() if line and line[0] not in "#["]
    assert len(lines) == len(NAMES) == len(set(NAMES)) > 40
