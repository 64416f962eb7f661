"""``arXiv:2011.13456`` in a page or a docstring is a link."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

NUMBER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
AS_IT_IS = (nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.math)


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_post_transform(Links)
    return {"parallel_read_safe": True}
