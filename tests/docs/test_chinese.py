"""The learning road in Chinese: each message is translated, with its formulas, code and links."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from urllib.parse import urljoin

import pytest

from tests.helpers import ROOT

pytest.importorskip("sphinx")
from babel.messages.catalog import Catalog, Message  # comes with Sphinx
from jinja2 import Template
from sphinx.util.osutil import relative_uri

DOCS = ROOT / "docs"
PO = DOCS / "locale" / "zh_CN" / "LC_MESSAGES"
FILES = sorted(PO.rglob("*.po"))
OUTDATED = 0.05  # of the road's messages: English sentences change before their translation does
MARKS = re.compile(r"\$[^$]+\$|\{[\w:]+\}`[^`]+`|:[\w:]+:`[^`]+`|`+[^`]+`+|\]\([^)]+\)")


def marks(text: str) -> Counter[str]:
    """Formulas, code, roles and the targets of links. The words of a role may change."""
    found = (" ".join(mark.split()) for mark in MARKS.findall(text))
    return Counter(re.sub(r"`[^`<]+ <([^`>]+)>`", r"`\1`", mark) for mark in found)


def faults(message: Message) -> list[str]:
    """What is wrong with a translation."""
    english, chinese = str(message.id), str(message.string)
    prose = MARKS.sub("", english)
    if message.fuzzy or not (chinese or not re.search("[A-Za-z]", prose)):
        return ["is not translated"]
    if not chinese:
        return []  # a formula: Sphinx keeps it
    found = [f"lost {m}" for m in marks(english) - marks(chinese)]
    found += [f"added {m}" for m in marks(chinese) - marks(english)]
    said = "\\" not in prose and re.search("([a-z]+ ){3}", prose)  # not a displayed formula
    if said and not re.search("[\u4e00-\u9fff]", chinese):
        found += ["is English"]
    return found


@pytest.fixture(scope="module")
def chinese() -> ModuleType:
    """The script that renews the files."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("chinese")
    finally:
        sys.path.remove(str(DOCS))


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.relative_to(PO).as_posix())
def test_every_message_is_translated_and_keeps_its_marks(file: Path, chinese: ModuleType) -> None:
    messages = [message for message in chinese.read(file) if message.id]
    assert messages
    found = [f"{m.id!r:.60} {fault}" for m in messages for fault in faults(m)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("english", "wrong", "right"),
    [
        ("the score $s$", "得分 $t$", "得分 $s$"),
        ("`a` and [b](c.md#d)", "`a` 与 [b](c.md)", "`a` 与 [乙](c.md#d)"),
        ("{py:class}`X <ss.X>`", "{py:class}`甲 <ss.Y>`", "{py:class}`甲 <ss.X>`"),
        (":doc:`X </x>`", "`甲 </x>`", ":doc:`甲 </x>`"),
        ("samples of a chain", "samples of a chain", "链的样本"),
        ("noise", "", "噪声"),
    ],
)
def test_faults_are_seen(english: str, wrong: str, right: str) -> None:
    assert faults(Message(english, wrong)) and not faults(Message(english, right))
    assert faults(Message(english, right, flags=["fuzzy"]))


def test_the_english_pages_say_what_was_translated(chinese: ModuleType, tmp_path: Path) -> None:
    """A changed or new sentence is counted; after `make chinese` its file shows it."""
    pages: dict[str, Catalog] = chinese.english(tmp_path)
    assert set(pages) == {p.relative_to(PO).with_suffix("").as_posix() for p in FILES}
    missing, total = [], 0
    for page, messages in pages.items():
        known = chinese.read(PO / f"{page}.po")
        wanted = [str(m.id) for m in messages if m.id]
        missing += [f"{page}: {text}" for text in wanted if text not in known]
        total += len(wanted)
    assert total > 1000
    assert len(missing) <= OUTDATED * total, "\n".join(missing)


@pytest.mark.slow
def test_anchors_are_those_of_the_english_headings(chinese: ModuleType, tmp_path: Path) -> None:
    warnings = chinese.build(tmp_path, "dummy", language="zh_CN").splitlines()
    own = [line for line in warnings if "<translated>" in line]
    assert own  # links out of the road, which this build leaves out
    assert not [line for line in own if "local id not found" in line]


def test_the_search_finds_chinese(chinese: ModuleType) -> None:
    """Sphinx's script takes the term that is the query, or else all terms that contain it."""
    terms = {chinese.Search({}).stem(t) for t in chinese.Search({}).split("概率流，概率流方程 ODE")}
    assert {"概率", "方程", "ode"} <= terms
    assert "概率流" not in terms and len([t for t in terms if "概率流" in t]) == 2


@pytest.mark.parametrize("page", ["index", "theory/01-sde"])
@pytest.mark.parametrize("root", ["file:///tmp/html/", "https://example.org/a/b/"])
def test_each_page_links_to_its_twin(page: str, root: str) -> None:
    switch = Template((DOCS / "_templates" / "sidebar" / "language.html").read_text())
    for language, here, there in (("en", "", "zh_CN/"), ("zh-CN", "zh_CN/", "")):

        def pathto(uri: str, resource: bool) -> str:
            assert resource
            return relative_uri(f"{page}.html", uri)

        html = switch.render(language=language, pagename=page, pathto=pathto)
        (link,) = re.findall(r'href="([^"]+)"', html)
        assert urljoin(f"{root}{here}{page}.html", link) == f"{root}{there}{page}.html"
