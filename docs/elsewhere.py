"""Links from the reference to PyTorch, Python, NumPy and SciPy, without asking their sites.

intersphinx reads inventories of names, which it would download. Here they are made from the short
list ``elsewhere.txt``, so a build needs no network.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

LIST = Path(__file__).resolve().with_suffix(".txt")
SECTION = re.compile(r"^\[(.+)\] (\S+)\n((?:.+\n)+)", re.MULTILINE)
HEAD = (
    "# Sphinx inventory version 2\n# Project: {}\n# Version: \n"
    "# The remainder of this file is compressed using zlib.\n"
)


def inventories(text: str) -> dict[str, tuple[str, bytes]]:
    """Library → where its documentation is, and its inventory in the format of Sphinx."""
    found = {}
    for library, address, lines in SECTION.findall(text):
        names = re.sub(r"^(\S+) (\S+) (\S+)$", r"\1 py:\2 1 \3 -", lines, flags=re.MULTILINE)
        found[library] = (address, HEAD.format(library).encode() + zlib.compress(names.encode()))
    return found


def write(app: Sphinx, config: Config) -> None:
    """Write the inventories beside what Sphinx stores of a build, and tell intersphinx."""
    folder = Path(app.doctreedir) / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for library, (address, content) in inventories(LIST.read_text(encoding="utf-8")).items():
        file = folder / f"{library}.inv"
        file.write_bytes(content)
        config.intersphinx_mapping[library] = (address, str(file))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.intersphinx")
    app.connect("config-inited", write, priority=700)  # before intersphinx looks, at 800
    return {"parallel_read_safe": True}
