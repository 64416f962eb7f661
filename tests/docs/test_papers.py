"""The list of papers: each number that the package and the pages cite, once, by its authors."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.helpers import ROOT, written_pages

NUMBER = re.compile(r"(?:arXiv:|arxiv\.org/abs/)(\d{4}\.\d{4,5})")
NAME = r"[^\W\d_a-z][\w’'-]+"
CITED = re.compile(
    rf"({NAME})(?:(?:, | & | and ){NAME})*(?: et al\.)? (\d{{4}})[a-z]?"
    r",? \(?arXiv:(\d{4}\.\d{4,5})"
)
FILES = [
    *sorted((ROOT / "sdescore").rglob("*.py")),
    *sorted((ROOT / "docs" / "gallery").rglob("*.py")),
    *written_pages(),
]
TEXT = " ".join(" ".join(file.read_text(encoding="utf-8").split()) for file in FILES)


def entries() -> dict[str, dict[str, str]]:
    """Key → the fields of an entry, and the surname of its first author."""
    bib = (ROOT / "docs" / "papers.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}$", bib, re.DOTALL | re.MULTILINE)
    assert len(found) == len(dict(found)) == bib.count("@")
    fields = {
        key: dict(re.findall(r"(\w+) += \{(.*?)\},\n", body, re.DOTALL)) for key, body in found
    }
    return {key: e | {"first": e["author"].split(",")[0]} for key, e in fields.items()}


def test_each_cited_number_is_listed_once_and_each_listed_number_is_cited() -> None:
    listed = Counter(e["eprint"] for e in entries().values() if "eprint" in e)
    assert listed == Counter(set(NUMBER.findall(TEXT)))


@pytest.mark.parametrize("key", [k for k, e in entries().items() if "eprint" not in e])
def test_a_paper_without_a_number_is_cited_by_author_and_year(key: str) -> None:
    entry = entries()[key]
    assert re.search(rf"\b{entry['first']}\b\D{{0,60}}\b{entry['year']}\b", TEXT)


def test_the_text_and_the_list_name_the_same_authors_and_years() -> None:
    """A text may have the year of the preprint, where the list has that of the conference."""
    by_number = {e["eprint"]: e for e in entries().values() if "eprint" in e}
    found = CITED.findall(TEXT)
    assert len(found) > 150
    for first, year, number in found:
        entry = by_number[number]
        assert entry["first"].split()[-1] == first, f"{number} is by {entry['first']}"
        assert year in (entry["year"], f"20{number[:2]}"), f"{number} is of {entry['year']}"


def test_each_paper_has_what_a_reference_needs() -> None:
    for key, entry in entries().items():
        assert entry["title"] and re.fullmatch(r"(19|20)\d\d", entry["year"]), key
        if "eprint" in entry:
            assert 0 <= int(entry["year"]) - 2000 - int(entry["eprint"][:2]) <= 2, key
        else:
            assert {"journal", "booktitle", "publisher"} & entry.keys(), key
