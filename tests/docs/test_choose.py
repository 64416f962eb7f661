"""Choose, the questions and the citation agree with what they point to."""

from __future__ import annotations

import re

import pytest

import sdescore as ss
from tests.helpers import ROOT

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([\w/-]+\.md)")
PROSE = re.compile(r"^```.*?^```$|`[^`\n]*`|\$[^$]*\$", re.MULTILINE | re.DOTALL)


def figures_without_a_source(text: str) -> list[str]:
    """Figures with a decimal point that stand on no page that their section links."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        pages = "".join((DOCS / page).read_text("utf-8") for page in LINK.findall(section))
        figures = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", PROSE.sub("", section))
        found += [figure for figure in figures if figure not in pages]
    return found


@pytest.mark.parametrize("name", ["choose.md", "faq.md"])
def test_every_figure_stands_on_a_page_that_its_section_links(name: str) -> None:
    text = (DOCS / name).read_text("utf-8")
    assert not figures_without_a_source(text)
    assert len(LINK.findall(text)) > 8


def test_a_figure_without_a_source_is_seen() -> None:
    text = "# A\n\n## B\n\n[results](results.md): 12.3456 and `1.5` and $2.5$.\n"
    assert figures_without_a_source(text) == ["12.3456"]


def test_every_question_has_a_short_answer_with_code() -> None:
    text = (DOCS / "faq.md").read_text("utf-8")
    questions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(questions) >= 9
    for question in questions:
        heading, _, answer = question.partition("\n")
        words = re.sub(r"```.*?```", "", answer, flags=re.DOTALL)
        assert heading.endswith("?") and ">>> " in answer, heading
        assert len(re.findall(r"[.?](?=\s|$)", words)) <= 5, heading


def test_the_citation_has_this_version_and_the_papers_of_citation_cff() -> None:
    entry, papers = ((DOCS / f"{name}.bib").read_text("utf-8") for name in ("cite", "papers"))
    assert f"version = {{{ss.__version__}}}" in entry
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {ss.__version__}\n" in citation
    titles = re.findall(r"^    title: (.+)$", citation, re.M)
    assert len(titles) == 3 and all(f"{{{title}}}" in papers for title in titles)
