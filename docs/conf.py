"""Sphinx configuration: theory in Markdown, the API from the docstrings."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import Element, Node
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
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
autosummary_generate = False  # the tables only; write_api_pages makes the pages
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
# Types such as "Tensor, shape (B, *E)" are prose: text, not one link a word.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
nitpicky = True

OUTSIDE = {"torch", "nn", "Tensor", "numpy", "scipy", "matplotlib"} | sys.stdlib_module_names


# The links of the chain, and the modules in which their public names are defined.
LINKS = {
    "SDEs": "sde",
    "Kernels": "sde.kernel",
    "Scores": "score parameterization tweedie guidance",
    "Networks": "nets",
    "Learning": "losses training checkpoint",
    "Grids": "grids table_grid",
    "Predictors": "predictors",
    "Correctors": "correctors",
    "Langevin dynamics": "mcmc",
    "Samplers": "sampler adaptive tableau simulate fokker_planck probability_flow likelihood",
    "Analysis": "analysis",
    "Noise": "noise rng",
    "Data, distances and pictures": "datasets metrics plotting",
    "Errors": "errors",
}


def names_by_link() -> dict[str, list[str]]:
    """Public names under the link of the chain they belong to; the longest prefix wins."""
    prefixes = {
        f"sdescore.{module}": link for link, modules in LINKS.items() for module in modules.split()
    }
    found: dict[str, list[str]] = {link: [] for link in LINKS}
    for name in sorted(n for n in sdescore.__all__ if not n.startswith("_")):
        defined = getattr(sdescore, name)
        module = getattr(defined, "__module__", None) or defined.__name__
        fits = [p for p in prefixes if module == p or module.startswith(p + ".")]
        if not fits:
            raise ExtensionError(f"no link of the chain in docs/conf.py holds {module} ({name})")
        found[prefixes[max(fits, key=len)]].append(name)
    return {link: names for link, names in found.items() if names}


def write_api_pages(app: Sphinx) -> None:
    """One page for each public module, and the tables of public names on the package's own."""
    folder = Path(app.srcdir) / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    modules = [info.name for info in pkgutil.walk_packages(sdescore.__path__, "sdescore.")]
    for name in ["sdescore", *(module for module in modules if "._" not in module)]:
        page = [name, "=" * len(name), "", f".. automodule:: {name}"]
        if name == "sdescore":
            for link, names in names_by_link().items():
                page += ["", link, "-" * len(link), "", ".. autosummary::", "   :nosignatures:", ""]
                page += [f"   {n}" for n in names]
        else:
            page += ["   :members:", "   :show-inheritance:"]
        (folder / f"{name}.rst").write_text("\n".join(page) + "\n", encoding="utf-8")


def in_signature(node: Node) -> bool:
    """Whether a reference was made from a type hint."""
    parent: Any = node
    while parent is not None and not isinstance(parent, addnodes.desc_signature):
        parent = parent.parent
    return parent is not None


def defined_as(target: str) -> str | None:
    """``sdescore.sde.vp.VPSDE`` for ``VPSDE``, ``sdescore.VPSDE`` or ``sdescore.sde.VPSDE``."""
    parts = target.removeprefix("sdescore.").split(".")
    found: Any = sdescore
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            try:
                importlib.import_module(f"sdescore.{'.'.join(parts[: i + 1])}")
            except ImportError:
                return None
        found = getattr(found, part)
    found = found.fget if isinstance(found, property) else found
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
    if canonical is not None and canonical != target:
        domain = env.domains.python_domain
        where = (env, node["refdoc"], app.builder, node["reftype"], canonical, node, contnode)
        linked = domain.resolve_xref(*where)
        if linked is not None:
            return linked
    if in_signature(node) or target.split(".")[0] in OUTSIDE:
        return contnode
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_api_pages)
    app.connect("missing-reference", resolve)
