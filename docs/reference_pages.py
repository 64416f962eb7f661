"""The reference: a page for each name that users type, titled as it is typed.

Pages are written before a build, from the rooms' ``__all__``. A name's page has its docstring, a
box with the figures of a method, and the pages and gallery scripts that use it. The modules, whose
docstrings are the theory of what is in them, have pages outside the navigation.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from class_tables import rows_of
from docutils.nodes import Element, Node
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import sdescore

OUTSIDE = {"torch", "nn", "Tensor", "numpy", "scipy", "matplotlib"} | sys.stdlib_module_names

# The rooms: first the chain in its order, then what surrounds it.
LINKS = {
    "The chain, from SDE to samples": "sde grids score tableau predictors correctors guidance "
    "inverse samplers published noise",
    "Networks and training": "nets losses training checkpoint interop datasets",
    "Exact answers and measures": "analysis fokker_planck langevin metrics plotting",
    "Errors": "errors",
}
ROOMS = " ".join(LINKS.values()).split()
TABLE_OF = {
    "predictors": "predictors",
    "correctors": "correctors",
    "sde": "sdes",
    "inverse": "operators",
}
MODULES = {info.name for info in pkgutil.walk_packages(sdescore.__path__, "sdescore.")}
MOST = 8  # pages named under "Where it is used"


def names_of(room: str) -> list[str]:
    """What users type: ``ss.VPSDE`` for the names of everyday work, then the room's others."""
    module = importlib.import_module(f"sdescore.{room}")
    everyday = [n for n in module.__all__ if getattr(sdescore, n, None) is getattr(module, n)]
    rest = [n for n in module.__all__ if n not in everyday]
    return [f"ss.{n}" for n in everyday] + [f"ss.{room}.{n}" for n in rest]


def module_of(room: str, name: str) -> str:
    """The file of a room that lists a name as its own."""
    files = [m for m in sorted(MODULES) if f"{m}.".startswith(f"sdescore.{room}.")]
    found = {file: importlib.import_module(file) for file in files}
    own = (f for f, m in found.items() if name in getattr(m, "__all__", ()) and not is_room(m))
    return next(own)


def is_room(module: Any) -> bool:
    """Whether a module is a folder of files."""
    return hasattr(module, "__path__")


def titled(title: str, *lines: str) -> list[str]:
    """A page's first lines."""
    return [title, "=" * len(title), "", *lines]


def first_line(room: str) -> str:
    """What a room is, by its own words."""
    return (importlib.import_module(f"sdescore.{room}").__doc__ or "").strip().splitlines()[0]


def table(names: list[str]) -> list[str]:
    """A table of names and their first sentences."""
    return [".. autosummary::", "   :nosignatures:", "", *(f"   {n}" for n in names), ""]


def name_page(room: str, typed: str, pages: dict[str, str]) -> list[str]:
    """The page of one name."""
    name = typed.rpartition(".")[2]
    module = module_of(room, name)
    found = getattr(importlib.import_module(module), name)
    kind = "autofunction" if inspect.isroutine(found) else "autodata"
    if inspect.isclass(found):
        kind = "autoexception" if issubclass(found, BaseException) else "autoclass"
    # Each page would copy the navigation; with 220 names in it that takes most of a build.
    head = f".. currentmodule:: {module}", "", f".. {kind}:: {module}.{name}"
    lines = [":orphan:", "", *titled(typed, *head)]
    if kind in ("autoclass", "autoexception"):
        lines += ["   :members:", "   :show-inheritance:"]
    if room in TABLE_OF and rows_of(TABLE_OF[room], name):
        lines += ["", f".. class-table:: {TABLE_OF[room]} {name}"]
    spoken = re.compile(rf"\b(ss|sdescore)\.({room}\.)?{name}\b")
    used = [page for page, text in pages.items() if spoken.search(text)]
    lines += ["", "Where it is used", "-" * 16, ""]
    lines += [f"- :doc:`/{page}`" for page in used[:MOST]]
    lines += [f"- :py:mod:`{module}`, the file that defines it", ""]
    return lines


def write_pages(app: Sphinx) -> None:
    """Write ``reference/`` and ``internals/``."""
    source = Path(app.srcdir)
    sys.modules["ss"] = sdescore  # tables of names read as they are typed
    found = [*sorted(source.glob("howto/*.md")), *sorted(source.glob("theory/*.md"))]
    pages = {
        page.relative_to(source).with_suffix("").as_posix(): page.read_text(encoding="utf-8")
        for page in found
    }
    written = {"index": [*titled("Reference", INTRODUCTION, "")]}
    for link, rooms in LINKS.items():
        written["index"] += [link, "-" * len(link), ""]
        for room in rooms.split():
            names = names_of(room)
            head = titled(f"ss.{room}", first_line(room), "")
            written[f"ss.{room}"] = head + table(names)
            listed = ", ".join(f":doc:`{n.removeprefix('ss.')} <{n}>`" for n in names)
            written["index"] += [f":doc:`ss.{room}` {first_line(room)}", f"   {listed}", ""]
            for typed in names:
                written[typed] = name_page(room, typed, pages)
    listed = [f"   ss.{room}" for room in ROOMS]
    written["index"] += [".. toctree::", "   :hidden:", "", *listed]
    fill(source / "reference", written)
    fill(source / "internals", dict(internals()))


def internals() -> Iterator[tuple[str, list[str]]]:
    """A page for each room's files: their docstrings, and what they define beside public names."""
    shown = sorted(module for module in MODULES if "._" not in module)
    for room in dict.fromkeys(module.split(".")[1] for module in shown):
        lines = [":orphan:", ":nosearch:", "", *titled(f"Inside ss.{room}")]
        for module in shown:
            if f"{module}.".startswith(f"sdescore.{room}."):
                found = importlib.import_module(module)
                lines += [module, "-" * len(module), "", f".. automodule:: {module}"]
                own = [] if hasattr(found, "__all__") else ["   :members:", "   :show-inheritance:"]
                lines += [*own, ""]
        yield room, lines


def fill(folder: Path, pages: dict[str, list[str]]) -> None:
    """Write pages into a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, lines in pages.items():
        (folder / f"{name}.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")


INTRODUCTION = (
    "Users import one name, ``import sdescore as ss``. The names of everyday work are in it. The "
    "rest is under its room, such as ``ss.losses.sliced_loss``. Every name has a page, which is "
    "titled as you type it."
)


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
    there. Names of other libraries have a link if they are in ``elsewhere.txt``; the others stay
    text, and type hints are mypy's business. What is left is a mistake in a docstring or a page,
    and is reported.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    canonical = defined_as(target)
    if canonical is None and node.get("py:module"):
        canonical = defined_as(f"{node['py:module']}.{target}")
    if canonical is None and node.get("py:class"):  # a member, perhaps an inherited one
        canonical = defined_as(f"{node['py:module']}.{node['py:class']}.{target}")
    on_room = re.fullmatch(r"reference/ss\.[a-z_]+", node["refdoc"])
    if canonical is None and on_room:  # a first line, on its room's page
        room = node["refdoc"].rpartition(".")[2]
        canonical = defined_as(f"{room}.{target}")
    if canonical is not None and canonical != target:
        domain = env.domains.python_domain
        where = (env, node["refdoc"], app.builder, node["reftype"], canonical, node, contnode)
        linked = domain.resolve_xref(*where)
        if linked is not None:
            return linked
    if canonical is not None:  # it exists, but is not public: text without a link
        return contnode
    # A first line is checked on the page of its name. What has a space is the start of a
    # property's docstring, which napoleon takes for a type.
    if on_room or " " in target or in_signature(node) or target.split(".")[0] in OUTSIDE:
        return contnode
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
