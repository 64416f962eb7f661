"""Sphinx configuration: theory in Markdown, the API from the docstrings."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import Element, Node
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import autosummary

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sdescore

project = "sdescore"
author = "The sdescore authors"
copyright = "2026, The sdescore authors"
version = release = sdescore.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax from the package, so that pages read without a network
    "class_tables",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "sdescore"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# Equations: $$ ... $$ (label) in a page, {eq}`label` there and :eq:`label` in a docstring.
# Numbers follow the sections of the numbered table of contents: (2.3).
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
numfig = True
math_numfig = True
numfig_secnum_depth = 1

autosummary.WELL_KNOWN_ABBREVIATIONS += ("eq.", "eqs.")  # they end no sentence
first_sentence = autosummary.extract_summary  # one that leads to an equation ends in a colon
autosummary.extract_summary = lambda *of: re.sub(r":\.?$", ".", first_sentence(*of))
autosummary_generate = False  # the tables only; write_api_pages makes the pages
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
# Types such as "Tensor, shape (B, *E)" are prose: text, not one link a word.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
nitpicky = True
suppress_warnings = ["ref.python"]  # two modules may name a private class alike

OUTSIDE = {"torch", "nn", "Tensor", "numpy", "scipy", "matplotlib"} | sys.stdlib_module_names


# The rooms in the order of the chain.
ROOMS = (
    "sde grids score nets losses training checkpoint tableau predictors correctors langevin "
    "guidance inverse samplers published noise analysis fokker_planck metrics plotting interop "
    "datasets errors"
)


def names_of(room: str) -> list[str]:
    """What users type: ``ss.VPSDE`` for the names of everyday work, then the room's others."""
    module = importlib.import_module(f"sdescore.{room}")
    everyday = [n for n in module.__all__ if getattr(sdescore, n, None) is getattr(module, n)]
    rest = [n for n in module.__all__ if n not in everyday]
    return [f"ss.{n}" for n in everyday] + [f"ss.{room}.{n}" for n in rest]


MODULES = {info.name for info in pkgutil.walk_packages(sdescore.__path__, "sdescore.")}


def write_api_pages(app: Sphinx) -> None:
    """One page for each module below its room's, and the public names on the package's own."""
    folder = Path(app.srcdir) / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sys.modules["ss"] = sdescore  # tables of names read as they are typed
    shown = ["sdescore", *sorted(module for module in MODULES if "._" not in module)]
    for name in shown:
        children = [m for m in shown if m.rpartition(".")[0] == name]
        page = [name, "=" * len(name), "", f".. automodule:: {name}"]
        if name == "sdescore":
            rooms = [f"sdescore.{room}" for room in ROOMS.split()]
            children = rooms + [child for child in children if child not in rooms]
            for room in ROOMS.split():
                doc = importlib.import_module(f"sdescore.{room}").__doc__ or ""
                page += [
                    "",
                    f"ss.{room}",
                    "-" * (len(room) + 3),
                    "",
                    doc.strip().splitlines()[0],
                    "",
                ]
                page += [".. autosummary::", "   :nosignatures:", ""]
                page += [f"   {n}" for n in names_of(room)]
            page += ["", "All modules", "-----------"]
        elif not children:
            page += ["   :members:", "   :show-inheritance:"]
        if children:
            page += ["", ".. toctree::", "   :maxdepth: 1", "", *(f"   {m}" for m in children)]
        (folder / f"{name}.rst").write_text("\n".join(page) + "\n", encoding="utf-8")


def in_signature(node: Node) -> bool:
    """Whether a reference was made from a type hint."""
    parent: Any = node
    while parent is not None and not isinstance(parent, addnodes.desc_signature):
        parent = parent.parent
    return parent is not None


def defined_as(target: str) -> str | None:
    """``sdescore.sde.vp.VPSDE`` for ``VPSDE``, ``ss.VPSDE`` or ``sdescore.sde.VPSDE``."""
    parts = target.removeprefix("sdescore.").removeprefix("ss.").split(".")
    owner: Any = None
    found: Any = sdescore
    for i, part in enumerate(parts):
        # A file comes before the function of its name, unless the function is what is asked for.
        module = f"sdescore.{'.'.join(parts[: i + 1])}"
        owner = found
        if (i + 1 < len(parts) or not hasattr(found, part)) and module in MODULES:
            found = importlib.import_module(module)
        elif hasattr(found, part):
            found = getattr(found, part)
        else:
            return None
    if isinstance(owner, type) and not hasattr(
        found, "__qualname__"
    ):  # a property or a plain value
        return f"{owner.__module__}.{owner.__qualname__}.{parts[-1]}"
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{name}" if module and name else None


def resolve(app: Sphinx, env: BuildEnvironment, node: Any, contnode: Element) -> Element | None:
    """References the Python domain could not resolve by itself.

    Public names are documented where they are defined, so a re-exported name is looked up
    there. Other libraries are not linked, and type hints are mypy's business. What is left is a
    mistake in a docstring or a page, and is reported.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    canonical = defined_as(target)
    if canonical is None and node.get("py:module"):
        canonical = defined_as(f"{node['py:module']}.{target}")
    if canonical is None and node.get("py:class"):  # a member, perhaps an inherited one
        canonical = defined_as(f"{node['py:module']}.{node['py:class']}.{target}")
    if canonical is None and node["refdoc"] == "generated/sdescore":  # a first line, on that page
        found = (defined_as(f"{room}.{target}") for room in ROOMS.split())
        canonical = next(filter(None, found), None)
    if canonical is not None and canonical != target:
        domain = env.domains.python_domain
        where = (env, node["refdoc"], app.builder, node["reftype"], canonical, node, contnode)
        linked = domain.resolve_xref(*where)
        if linked is not None:
            return linked
    if canonical is not None:  # it exists, but is not public: text without a link
        return contnode
    # A first line is checked on the page of its module. What has a space is the start of a
    # property's docstring, which napoleon takes for a type.
    first_line = node["refdoc"] == "generated/sdescore" or " " in target
    if first_line or in_signature(node) or target.split(".")[0] in OUTSIDE:
        return contnode
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_api_pages)
    app.connect("missing-reference", resolve)
