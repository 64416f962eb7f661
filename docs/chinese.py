"""The learning road in Chinese: its messages, and ``make chinese`` to renew the .po files.

A message is a paragraph, heading or cell of an English page. docs/locale has one file a page,
with each message and its Chinese. Sphinx shows the English of a message that has none.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from sphinx.application import Sphinx
from sphinx.search.zh import SearchChinese

DOCS = Path(__file__).resolve().parent
PO = DOCS / "locale" / "zh_CN" / "LC_MESSAGES"
ROAD = ["index.md", "install.md", "glossary.md", "theory/*"]
ROAD += ["examples/index.rst", "examples/first/*", "examples/samplers/*"]
HEADER = (
    'msgid ""\nmsgstr ""\n"Language: zh_CN\\n"\n"MIME-Version: 1.0\\n"\n'
    '"Content-Type: text/plain; charset=utf-8\\n"\n"Content-Transfer-Encoding: 8bit\\n"\n\n'
)


class Search(SearchChinese):
    """An index of Chinese without a dictionary: pairs of characters, and clauses with a full stop.

    A query of two characters is a pair. A longer one is no term, so the search looks for it in all.
    """

    language_name = "English"  # of the stemmer: Sphinx 9 looks for one named Chinese

    def split(self, input: str) -> list[str]:
        """The terms of a text."""
        clauses: list[str] = re.findall("[\u4e00-\u9fff]+", input)
        pairs = [clause[i : i + 2] for clause in clauses for i in range(len(clause) - 1)]
        return [*super().split(input), *pairs, *(f"{clause}。" for clause in clauses)]


def keep_anchors(app: Sphinx, tree: Any) -> None:
    """Keep the anchors of a page's headings: myst_parser parses each translated heading anew."""
    app.env.metadata[app.env.docname]["myst_slugs"] = getattr(tree, "myst_slugs", {})


def setup(app: Sphinx) -> None:
    """Listen to Sphinx."""
    app.connect("doctree-read", keep_anchors)
    app.add_search_language(Search)


def build(folder: Path, builder: str, **given: Any) -> str:
    """Build a copy of the road in an empty folder, and return the warnings."""
    source = folder / "docs"
    ignored = shutil.ignore_patterns(
        "_build", "_static", "examples", "howto", "internals", "reference"
    )
    shutil.copytree(DOCS, source, ignore=ignored)
    given |= {
        "extensions": ["myst_parser", "sphinx_design", "sphinx_gallery.gen_gallery", "chinese"],
        "include_patterns": ROAD,
        "plot_gallery": False,
        "nitpicky": False,
    }
    said = {"status": None, "warning": StringIO()}
    Sphinx(source, source, folder / "out", folder / "trees", builder, given, **said).build()
    return said["warning"].getvalue()


def english(folder: Path) -> dict[str, Catalog]:
    """Page → its messages."""
    build(folder, "gettext", gettext_location=False)  # the warnings: links lead out of the road
    out = folder / "out"
    return {p.relative_to(out).with_suffix("").as_posix(): read(p) for p in out.rglob("*.pot")}


def read(path: Path) -> Catalog:
    """The messages of a .pot or .po file."""
    with path.open("rb") as file:
        return read_po(file, abort_invalid=True)


def update(page: str, messages: Catalog) -> None:
    """Bring a page's file up to its English: new messages are empty, changed ones marked fuzzy."""
    path = PO / f"{page}.po"
    chinese = read(path) if path.exists() else Catalog()
    chinese.update(messages)
    chinese.obsolete.clear()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(HEADER.encode())
        write_po(file, chinese, width=100, omit_header=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for page, messages in english(Path(folder)).items():
            update(page, messages)
