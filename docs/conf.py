"""Sphinx configuration: pages in Markdown, a gallery of scripts, the reference from docstrings."""

from __future__ import annotations

import re
import sys
from pathlib import Path

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
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax from the package, so that pages read without a network
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "class_tables",
    "elsewhere",  # before reference_pages, which takes what has no link for text
    "reference_pages",
    "arxiv",
    "chinese",
]
exclude_patterns = ["_build", "gallery", "figures"]
bibtex_bibfiles = ["papers.bib"]
html_theme = "furo"
html_title = f"sdescore {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).resolve().parent / "_static" / "scorer.js")
html_favicon = "_static/favicon.svg"
templates_path = ["_templates"]
SIDEBAR = ["brand", "language", "search", "scroll-start", "navigation", "scroll-end"]
html_sidebars = {"**": [f"sidebar/{part}.html" for part in SIDEBAR]}  # furo's, and the language
add_module_names = False
python_use_unqualified_type_names = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

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
autosummary_generate = False  # the tables only; reference_pages makes the pages
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
# Types such as "Tensor, shape (B, *E)" are prose: text, not one link a word.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
nitpicky = True
suppress_warnings = [
    "ref.python",  # two modules may name a private class alike
    "sphinx_gallery.space_in_filename",  # the clone may be in a folder with a space
]

# Chinese: `make docs` builds it into zh_CN/, from docs/locale, by `-D language=zh_CN`.
locale_dirs = ["locale"]
gettext_compact = False  # one file a page

# The gallery: scripts that run when the docs are built. `-D plot_gallery=0` leaves them out.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "subsection_order": [
        "gallery/first",
        "gallery/samplers",
        "gallery/scores",
        "gallery/conditions",
        "gallery/data",
        "gallery/own",
    ],
    "filename_pattern": "/plot_",
    "thumbnail_size": (480, 336),
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("sdescore",),
    "reference_url": {"sdescore": None},
    "backreferences_dir": "examples/used",
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 0,
    "download_all_examples": False,
    "matplotlib_animations": False,
    "abort_on_example_error": True,
    "copyfile_regex": "",
    "write_computation_times": False,
}
