"""``arXiv:2011.13456`` in a page or a docstring is a link, and one page lists all papers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

NUMBER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
AS_IT_IS = (nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.math)
NAME = r"[A-Z][\w’'-]+"
CITED = re.compile(
    rf"({NAME}(?:(?:, | & | and ){NAME})*(?: et al\.)? \d{{4}}),? \(?{NUMBER.pattern}"
)
HEAD = """Papers
======

The papers that the pages and the docstrings cite by their arXiv number, and where.

.. list-table::
   :header-rows: 1

   * - paper
     - cited in
"""


class Links(SphinxPostTransform):
    """Turn the numbers of papers in the text into links."""

    default_priority = 800  # other references have been resolved, messages translated

    def run(self, **_: Any) -> None:
        for text in list(self.document.findall(nodes.Text)):
            if NUMBER.search(text) and not inside(text):
                text.parent.replace(text, linked(text))


def inside(text: nodes.Text) -> bool:
    """Whether a text is part of a link, of code or of a heading."""
    node: Any = text.parent
    while node is not None and not isinstance(node, AS_IT_IS):
        node = node.parent
    return node is not None


def linked(text: str) -> list[nodes.Node]:
    """A text's parts, with a link for each number."""
    parts: list[nodes.Node] = []
    end = 0
    for match in NUMBER.finditer(text):
        parts.append(nodes.Text(text[end : match.start()]))
        link = nodes.reference("", match[0], refuri=f"https://arxiv.org/abs/{match[1]}")
        parts.append(link)
        end = match.end()
    return [*parts, nodes.Text(text[end:])]


def papers(texts: dict[str, str]) -> list[tuple[str, str, list[str]]]:
    """(authors and year, number, the texts that cite it), by author; a text has a name."""
    labels: dict[str, Counter[str]] = {}
    where: dict[str, list[str]] = {}
    for name, text in texts.items():
        plain = " ".join(text.split())
        for number in dict.fromkeys(NUMBER.findall(plain)):
            where.setdefault(number, []).append(name)
        for label, number in CITED.findall(plain):
            labels.setdefault(number, Counter())[label] += 1
    named = {number: labels[number].most_common(1)[0][0] for number in where if number in labels}
    return sorted((named[number], number, where[number]) for number in named)


def write_page(app: Sphinx) -> None:
    """Write ``reference/papers.rst``, after the reference's own pages."""
    source = Path(app.srcdir)
    pages = [*source.glob("*.md"), *source.glob("theory/*.md"), *source.glob("howto/*.md")]
    package = source.parent / "sdescore"
    texts = {
        f":doc:`/{page.relative_to(source).with_suffix('').as_posix()}`": page.read_text("utf-8")
        for page in sorted(pages)
    }
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(source.parent).with_suffix("").parts)
        module = module.removesuffix(".__init__")
        if "._" not in module:
            texts[f":py:mod:`{module}`"] = file.read_text("utf-8")
    rows = [
        f"   * - {label}, arXiv:{number}\n     - {', '.join(cited)}\n"
        for label, number, cited in papers(texts)
    ]
    (source / "reference" / "papers.rst").write_text(HEAD + "".join(rows), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_post_transform(Links)
    app.connect("builder-inited", write_page, priority=900)
    return {"parallel_read_safe": True}
